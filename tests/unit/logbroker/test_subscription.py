"""One subscriber's buffer."""

import asyncio

from flota.manager.logbroker.subscription import MAX_WAITING, Subscription
from flota.v1.logs_pb2 import LogMessage, SubscribeLogsRequest
from tests.simulation.virtual_time import run


def subscription(follow: bool = True) -> Subscription:
    request = SubscribeLogsRequest()
    request.options.follow = follow
    made = Subscription("s1", request, 5.0, lambda node_id: node_id)
    made.add("w1")
    made.question("w1")
    made.begin("w1", "call")
    return made


def test_a_full_buffer_makes_the_worker_wait_until_somebody_reads() -> None:
    async def story() -> None:
        sub = subscription()
        lines = [LogMessage(data=b"x" * 1000)] * 100
        put = 0

        async def pour() -> None:
            nonlocal put
            for _ in range(30):
                await sub.put("w1", "call", lines)
                put += 1

        pouring = asyncio.create_task(pour())
        await asyncio.sleep(100)
        # A message is never cut: the one that fills it goes in whole.
        assert put == MAX_WAITING // 100_000 + 1
        stream = sub.messages()
        got = 0
        while got < 3000:
            got += len((await anext(stream)).messages)
        await pouring
        await stream.aclose()

    run(story())


def test_whoever_waits_is_let_go_when_the_subscriber_goes() -> None:
    async def story() -> None:
        sub = subscription()
        pouring = asyncio.create_task(sub.put("w1", "call", [LogMessage(data=b"x" * MAX_WAITING)]))
        await pouring
        waiting = asyncio.create_task(sub.put("w1", "call", [LogMessage()]))
        await asyncio.sleep(100)
        assert not waiting.done()
        sub.end()
        await waiting

    run(story())


def test_an_old_call_has_no_say_after_the_node_was_asked_again() -> None:
    async def story() -> None:
        sub = subscription(follow=False)
        sub.question("w1")
        await sub.put("w1", "call", [LogMessage(data=b"late")])
        sub.done("w1", "call")
        sub.broken("w1", "call")
        assert sub.open_nodes == ["w1"]
        sub.begin("w1", "new call")
        sub.done("w1", "new call")
        assert [message async for message in sub.messages()] == []

    run(story())


def test_one_who_followed_what_has_ended_is_not_kept_waiting() -> None:
    async def story() -> None:
        sub = subscription()
        await sub.put("w1", "call", [LogMessage(data=b"last")])
        sub.leave()
        got = [message async for message in sub.messages()]
        assert [line.data for message in got for line in message.messages] == [b"last"]
        assert [warning for message in got for warning in message.warnings] == []
        assert asyncio.get_running_loop().time() == 1.0

    run(story())
