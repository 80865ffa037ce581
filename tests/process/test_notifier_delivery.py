"""The notifier with a real bus and real servers: what goes out, what is reported, and what waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest

from supervisor.incidents.model import Channel, Tier
from supervisor.messages import Ack, Finished, Resync, Working
from supervisor.notifier import backoff, signal_cli
from supervisor.notifier.channel import Permanent, Retryable
from supervisor.notifier.oneshot import PageFailed, page
from supervisor.notifier.signal_cli import SignalCli
from supervisor.notifier.synapse_rest import SynapseRest
from supervisor.synapse_ids import thread_id
from tests.doubles.notifier_lab import WAIT_S, Lab, config, row
from tests.doubles.signal_double import Fault, Kind, SignalDouble
from tests.doubles.synapse_double import SynapseDouble

PACE_S = 0.05


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule in small: real retries without real waiting."""
    monkeypatch.setattr(backoff, "FIRST_S", PACE_S)
    monkeypatch.setattr(backoff, "LEAST_PAUSE_S", PACE_S)
    monkeypatch.setattr(backoff, "CAP_PAGE_S", 4 * PACE_S)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


async def in_thread(wait: Any, *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, wait, *args)


@pytest.mark.req("FR-005")
def test_a_page_goes_out_once_with_its_receipt() -> None:
    async def test(signal: SignalDouble) -> None:
        async with Lab(config(signal.url)) as lab:
            assert await lab.healer.deliver(row("r1")) == Ack()
            report = await lab.healer.report("r1")
            assert report.receipt == f"signal:{signal.sent[0].timestamp} by {signal.url}"
            assert (report.attempts, report.error) == (1, "")
            assert await lab.healer.deliver(row("r1")) == Ack()  # handed in again: reported again, not sent again
            await lab.healer.until(lambda: len(lab.healer.of("r1")) == 2)
            assert lab.healer.of("r1")[1] == report
        assert [(one.account, one.recipients, one.text) for one in signal.sent] == [
            ("+15550100", ("+15550101",), "subject r1\n\nbody of r1")
        ]
        told = [up for up in lab.ups if isinstance(up, Working | Finished)]
        assert told == [Working("outbox:r1"), Finished("outbox:r1")]

    with SignalDouble() as signal:
        run(test(signal))


@pytest.mark.req("AC-011", "R1")
@pytest.mark.parametrize("how", ["down", "hangs", "refuses"])
def test_ac_011_signal_goes_out_at_once_whatever_synapse_does(how: str) -> None:
    async def test(signal: SignalDouble, synapse: SynapseDouble) -> None:
        synapse.hang, synapse.status = how == "hangs", 500 if how == "refuses" else 200
        url = "http://127.0.0.1:9" if how == "down" else synapse.url
        async with Lab(config(signal.url, synapse=url, shutdown_s=1.5)) as lab:
            for n in range(40):  # more than there are slots
                lab.healer.deliver(row(f"y{n}", Channel.SYNAPSE))
            lab.healer.deliver(row("page"))
            assert (await lab.healer.report("page")).receipt
            others = [one for one in lab.healer.reports if one.row_id != "page"]
            assert not [one for one in others if one.receipt or how == "hangs"], "it waited for none of their attempts"

    with SignalDouble() as signal, SynapseDouble() as synapse:
        run(test(signal, synapse))


@pytest.mark.req("FR-005", "AC-011")
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(Kind.ERROR, code=-32603, times=3), "error -32603"),
        (Fault(Kind.ERROR, code=-32602, times=3), "notify.signal.account"),
        (Fault(Kind.RESULTS, types=("UNREGISTERED_FAILURE",), times=3), "not registered"),
        (Fault(Kind.STATUS, code=503, times=3), "HTTP 503"),
        (Fault(Kind.STATUS, code=404, times=3), "is signal-cli's daemon there"),
        (Fault(Kind.GARBAGE, text="<html>ok</html>", times=3), "<html>ok</html>"),
        (Fault(Kind.GARBAGE, text="", times=3), "answered something that is not"),
    ],
)
def test_a_failure_is_reported_and_tried_until_it_passes(fault: Fault, words: str) -> None:
    async def test(signal: SignalDouble) -> None:
        signal.fault = fault
        async with Lab(config(signal.url)) as lab:
            lab.healer.deliver(row("r1", attempts=5))
            report = await lab.healer.report("r1")
            errors = [one for one in lab.healer.of("r1") if one.error]
            assert errors
            assert all(words in one.error and not one.receipt for one in errors)
            assert report.attempts == 5 + 3 + 1
            assert errors[0].attempts == 6
        assert len(signal.sent) == 1

    with SignalDouble() as signal:
        run(test(signal))


@pytest.mark.req("FR-005")
@pytest.mark.usefixtures("fast")
def test_a_partial_failure_is_not_sent_and_only_the_missed_get_it_again() -> None:
    async def test(signal: SignalDouble) -> None:
        signal.members = ("+15550111", "+15550112", "+15550113")
        signal.fault = Fault(Kind.RESULTS, types=("SUCCESS", "NETWORK_FAILURE", "SUCCESS"), times=1)
        settings = config(signal.url)
        to_group = msgspec.structs.replace(settings.notify.signal, recipient="group:g=")
        settings = msgspec.structs.replace(settings, notify=msgspec.structs.replace(settings.notify, signal=to_group))
        async with Lab(settings) as lab:
            lab.healer.deliver(row("r1"))
            first = await lab.healer.report("r1", receipt=False)
            assert "reached 2 of 3, not +15550112" in first.error
            assert (await lab.healer.report("r1")).attempts == 2
        assert [one.recipients for one in signal.sent] == [("+15550111", "+15550113"), ("+15550112",)]

    with SignalDouble() as signal:
        run(test(signal))


@pytest.mark.req("FR-005")
def test_a_hung_delivery_delays_no_other() -> None:
    async def test(signal: SignalDouble) -> None:
        signal.fault = Fault(Kind.HANG, if_text="hung")
        async with Lab(config(signal.url, shutdown_s=1.5)) as lab:
            lab.healer.deliver(row("hung"))
            await in_thread(signal.wait_for_requests, 1, WAIT_S)
            for n in range(30):
                lab.healer.deliver(row(f"r{n}"))
            for n in range(30):
                await lab.healer.report(f"r{n}")
            assert not lab.healer.of("hung")
            assert lab.worker.oldest_work_s() > 0

    with SignalDouble() as signal:
        run(test(signal))


@pytest.mark.req("FR-005")
def test_pages_overtake_the_rest_of_the_queue() -> None:
    async def test(signal: SignalDouble) -> None:
        signal.fault = Fault(Kind.HANG)
        async with Lab(config(signal.url)) as lab:
            for n in range(25):
                lab.healer.deliver(row(f"low{n}", tier=Tier.INFORM))
            await in_thread(signal.wait_for_requests, 16, WAIT_S)
            assert await lab.healer.deliver(row("page")) == Ack()
            signal.fault = Fault()  # the 16 that hang fail, and the queue moves
            await in_thread(signal.wait_for, 26, WAIT_S)
            order = [up.item for up in lab.drain() if isinstance(up, Working)]
            assert order[15:18] == ["outbox:low15", "outbox:page", "outbox:low16"]

    with SignalDouble() as signal:
        run(test(signal))


@pytest.mark.req("FR-005")
def test_one_success_wakes_everything_that_waits_for_its_channel() -> None:
    """With the real schedule: without the waking, these rows would wait for minutes."""

    async def test(signal: SignalDouble) -> None:
        signal.fault = Fault(Kind.ERROR, code=-32602)
        async with Lab(config(signal.url)) as lab:
            for n in range(5):
                lab.healer.deliver(row(f"r{n}", tier=Tier.ASK))
            for n in range(5):
                await lab.healer.report(f"r{n}", receipt=False)
            signal.fault = Fault()
            lab.healer.deliver(row("new"))
            for n in range(5):
                assert (await lab.healer.report(f"r{n}")).attempts == 2

    with SignalDouble() as signal:
        run(test(signal))


def _small(signal: SignalDouble, attempt_s: float = 0.3) -> SignalCli:
    return SignalCli(config(signal.url).notify.signal, attempt_s)


@pytest.mark.req("FR-005", "R2")
def test_a_late_answer_is_heard_and_nothing_is_sent_twice() -> None:
    async def test(signal: SignalDouble) -> None:
        signal.fault = Fault(Kind.DELAY, seconds=60)
        channel = _small(signal)
        with pytest.raises(Retryable, match="it may still send"):
            await channel.deliver(row("r1"))
        signal.fault = Fault()  # the answer comes now, after the attempt is over
        assert await channel.deliver(row("r1")) == f"signal:{signal.sent[0].timestamp} by {signal.url}"
        assert len(signal.sent) == 1
        await channel.close()

    with SignalDouble() as signal:
        run(test(signal))


@pytest.mark.req("FR-005", "R2")
def test_a_daemon_that_lost_the_message_gets_it_again_but_not_as_long_as_it_may_only_be_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(signal: SignalDouble) -> None:
        signal.fault = Fault(Kind.HANG, times=1)  # it answers every question from then on
        channel = _small(signal, 1.5)
        for _ in range(3):
            with pytest.raises(Retryable, match="no answer"):
                await channel.deliver(row("r1"))
        assert len(signal.requests) == 1
        monkeypatch.setattr(signal_cli, "SLOW_S", 0.0)
        assert await channel.deliver(row("r1")) == f"signal:{signal.sent[0].timestamp} by {signal.url}"
        await channel.close()

    with SignalDouble() as signal:
        run(test(signal))


@pytest.mark.req("FR-005", "R2")
def test_a_silent_daemon_is_asked_before_it_is_given_the_message_again() -> None:
    """A server that accepts and never answers, as a stopped daemon does: one copy lies in its socket, not many."""

    async def test() -> None:
        methods: list[str] = []
        open_for_good: list[asyncio.StreamWriter] = []

        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_for_good.append(writer)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(int(line[16:]) for line in head.lower().splitlines() if line.startswith("content-length: "))
            methods.append(msgspec.json.decode(await reader.readexactly(length))["method"])

        server = await asyncio.start_server(swallow, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            channel = SignalCli(config(url).notify.signal, attempt_s=1.0)
            with pytest.raises(Retryable, match="no answer within"):
                await channel.deliver(row("r1"))
            for _ in range(3):
                with pytest.raises(Retryable, match="hangs"):
                    await channel.deliver(row("r1"))
            await channel.close()
            for writer in open_for_good:
                writer.close()
                await writer.wait_closed()
        assert methods.count("send") == 1
        assert set(methods[1:]) == {"version"}, "attempts that follow one another share a question"

    run(test())


@pytest.mark.req("FR-005", "AC-011")
def test_the_next_transport_takes_over_and_is_kept() -> None:
    async def test(first: SignalDouble, second: SignalDouble) -> None:
        first.fault = Fault(Kind.ERROR, code=-3)
        settings = config(first.url, "unix:/nowhere/signal.sock", second.url).notify.signal
        channel = SignalCli(settings)
        assert await channel.deliver(row("r1")) == f"signal:{second.sent[0].timestamp} by {second.url}"
        await channel.deliver(row("r2"))
        assert (len(first.requests), len(second.sent)) == (1, 2)
        second.fault = Fault(Kind.ERROR, code=-32602)
        with pytest.raises(Retryable) as caught:
            await channel.deliver(row("r3"))
        for part in (first.url, second.url, "unreachable: unix:/nowhere/signal.sock"):
            assert part in str(caught.value)
        await channel.close()

    with SignalDouble() as first, SignalDouble() as second:
        run(test(first, second))


@pytest.mark.req("FR-005")
def test_nothing_configured_says_what_to_configure() -> None:
    async def test() -> None:
        async with Lab(config()) as lab:
            lab.healer.deliver(row("r1"))
            report = await lab.healer.report("r1", receipt=False)
            assert "notify.signal.transports" in report.error
            assert not report.receipt

    run(test())


@pytest.mark.req("FR-005")
def test_rows_of_others_are_acknowledged_and_left_alone() -> None:
    async def test(signal: SignalDouble) -> None:
        async with Lab(config(signal.url), quarantined=frozenset({"outbox:bad"})) as lab:
            assert await lab.healer.deliver(row("store", Channel.SYNAPSE)) == Ack()
            assert await lab.healer.deliver(row("bad")) == Ack()
            refused = await lab.healer.hub.request("notifier", Resync())
            assert "Resync" in getattr(refused, "message", "")
            await lab.healer.deliver(row("good"))
            await lab.healer.report("good")
            assert {one.row_id for one in lab.healer.reports} == {"good"}
        assert len(signal.sent) == 1

    with SignalDouble() as signal:
        run(test(signal))


@pytest.mark.req("FR-005")
def test_a_suspect_is_delivered_alone() -> None:
    async def test(signal: SignalDouble) -> None:
        async with Lab(config(signal.url), suspects=frozenset({"outbox:s1", "outbox:s2"})) as lab:
            lab.healer.deliver(row("s1"))
            lab.healer.deliver(row("s2"))
            for n in range(20):
                lab.healer.deliver(row(f"r{n}"))
            for name in ("s1", "s2", *(f"r{n}" for n in range(20))):
                await lab.healer.report(name)
            history = lab.in_work()
            for name in ("outbox:s1", "outbox:s2"):
                assert {name} in history
                assert all(now == {name} for now in history if name in now)
            assert max(len(now) for now in history) > 1  # the others were not

    with SignalDouble() as signal:
        run(test(signal))


@pytest.mark.req("FR-005")
@pytest.mark.usefixtures("fast")
def test_reports_to_a_deaf_healer_do_not_heap_up() -> None:
    async def test(signal: SignalDouble) -> None:
        signal.fault = Fault(Kind.STATUS, code=500)
        async with Lab(config(signal.url)) as lab:
            lab.healer.deaf = True
            lab.healer.deliver(row("r1"))
            await lab.healer.until(lambda: any(one.attempts >= 10 for one in lab.healer.of("r1")))
            assert lab.worker._link.waiting == 1
            signal.fault = Fault()
            receipt = await lab.healer.report("r1")
            lab.healer.deaf = False
            await lab.healer.until(lambda: lab.healer.of("r1").count(receipt) >= 2)  # until it is acknowledged

    with SignalDouble() as signal:
        run(test(signal))


@pytest.mark.req("FR-005")
def test_an_order_to_stop_lets_the_attempt_in_work_end_and_its_receipt_arrive() -> None:
    async def test(signal: SignalDouble) -> None:
        signal.fault = Fault(Kind.DELAY, seconds=0.5)
        async with Lab(config(signal.url, shutdown_s=5)) as lab:
            lab.healer.deliver(row("r1"))
            await in_thread(signal.wait_for_requests, 1, WAIT_S)
        assert [bool(one.receipt) for one in lab.healer.of("r1")] == [True]

    with SignalDouble() as signal:
        run(test(signal))


@pytest.mark.req("FR-005", "R1")
def test_synapse_over_rest() -> None:
    async def test(synapse: SynapseDouble) -> None:
        async with Lab(config(synapse=synapse.url)) as lab:
            lab.healer.deliver(row("y1", Channel.SYNAPSE))
            assert (await lab.healer.report("y1")).receipt == "synapse:syn_000000000001"
        assert synapse.sent == [
            {
                "from_agent": "helios",
                "to_agent": "all",
                "content": "body of y1",
                "subject": "subject y1",
                "priority": "urgent",
                "thread": thread_id(row("y1")),
            }
        ]

    with SynapseDouble() as synapse:
        run(test(synapse))


@pytest.mark.req("FR-005")
@pytest.mark.parametrize(
    "answer",
    [{"error": "no such agent"}, {"status": "error"}, {"success": False}, {"ok": False, "id": "syn_1"}, "ok", ["x"]],
)
def test_a_refusal_inside_http_200_is_no_receipt_for_synapse_either(answer: object) -> None:
    async def test(synapse: SynapseDouble) -> None:
        synapse.answer = answer
        channel = SynapseRest(config(synapse=synapse.url).notify.synapse)
        with pytest.raises(Permanent, match=synapse.url):
            await channel.deliver(row("y1", Channel.SYNAPSE))

    with SynapseDouble() as synapse:
        run(test(synapse))


@pytest.mark.req("FR-005")
def test_the_last_page() -> None:
    with SignalDouble() as signal:
        page(config("http://127.0.0.1:9", signal.url), "the core gave up")
        assert [one.text for one in signal.sent] == ["the core gave up"]
        signal.fault = Fault(Kind.ERROR, code=-5)
        with pytest.raises(PageFailed, match="limits the rate"):
            page(config(signal.url), "x")
    with pytest.raises(PageFailed, match=r"notify\.signal\.transports"):
        page(config(), "x")
