"""Mail: a sink that takes every message and prints it, so that the example needs no real mail server."""

import signal
from email import message_from_bytes

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class Sink:
    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        message = message_from_bytes(envelope.content or b"")
        print(f"mail for {', '.join(envelope.rcpt_tos)}: {message['Subject']}", flush=True)
        for part in message.walk():
            if part.get_filename():
                print(part.get_payload(decode=True).decode(), end="", flush=True)
        return "250 taken"


if __name__ == "__main__":
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    controller = Controller(Sink(), hostname="0.0.0.0", port=2525)
    controller.start()
    print("mail listens on port 2525", flush=True)
    signal.sigwait(stop)
    controller.stop()
