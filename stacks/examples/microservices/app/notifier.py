"""Notifier: mails the report to whoever asks, through the SMTP server named by SMTP_HOST."""

import os
import smtplib
from email.message import EmailMessage
from typing import Any

from app.web import ask, serve


def notify(arguments: dict[str, Any]) -> dict[str, str]:
    message = EmailMessage()
    message["From"] = "flota example <example@flota.invalid>"
    message["To"] = arguments["to"]
    message["Subject"] = "Your prices"
    message.set_content("The report you asked for is attached.")
    message.add_attachment(ask("reporting", "/report.csv"), subtype="csv", filename="report.csv")
    with smtplib.SMTP(os.environ.get("SMTP_HOST", "mail"), int(os.environ.get("SMTP_PORT", "2525")), timeout=5) as smtp:
        smtp.send_message(message)
    return {"sent": arguments["to"]}


if __name__ == "__main__":
    serve("notifier", {"POST /notify": notify})
