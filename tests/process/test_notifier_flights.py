"""Answers that get lost: at most one extra copy, nothing lost, and what is known survives a kill -9 (FR-005, R2)."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from supervisor.notifier import flights, signal_cli
from supervisor.notifier.channel import Retryable
from supervisor.notifier.flights import Flights
from supervisor.notifier.signal_cli import SignalCli
from tests.doubles.notifier_lab import config, row
from tests.doubles.signal_double import Fault, Kind, SignalDouble


@pytest.fixture
def folder() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="hc"))
    yield directory
    shutil.rmtree(directory)


def with_channel(folder: Path, double: SignalDouble, use: Callable[[SignalCli], Awaitable[None]]) -> None:
    async def test() -> None:
        settings = config(*double.transports).notify.signal
        channel = SignalCli(settings, attempt_s=1.0, flights=Flights(folder / flights.FILE))
        try:
            await use(channel)
        finally:
            await channel.close()

    asyncio.run(asyncio.wait_for(test(), 60))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that answers is believed at once."""
    monkeypatch.setattr(signal_cli, "STEADY_S", 0.0)


@pytest.mark.usefixtures("at_once")
@pytest.mark.req("FR-005", "R2")
def test_while_answers_get_lost_nothing_is_given_a_second_time(folder: Path) -> None:
    """It takes every message and drops every answer, over each of its addresses."""

    async def use(channel: SignalCli) -> None:
        for _ in range(4):
            with pytest.raises(Retryable):
                await channel.deliver(row("r1"))
        assert len(double.sent) == 1
        double.fault = Fault()
        await channel.deliver(row("r1"))
        assert len(double.sent) == 2

    with SignalDouble(socket_path=folder / "s.sock", tcp=0) as double:
        double.fault = Fault(Kind.DROP)
        with_channel(folder, double, use)


@pytest.mark.req("FR-005", "R2")
@pytest.mark.parametrize(("kind", "taken"), [(Kind.DROP, 1), (Kind.HALF_CLOSE, 0)])
def test_a_second_copy_waits_for_a_way_that_has_answered_for_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, taken: int
) -> None:
    async def use(channel: SignalCli) -> None:
        with pytest.raises(Retryable):
            await channel.deliver(row("r1"))
        double.fault = Fault()
        with pytest.raises(Retryable, match="a second copy is given to it once it has answered for 2 s"):
            await channel.deliver(row("r1"))
        assert (await channel.deliver(row("r2"))).startswith("signal:"), "what was never lost does not wait"
        monkeypatch.setattr(signal_cli, "STEADY_WITHIN_S", 0.0)  # no way is steady, for too long
        assert (await channel.deliver(row("r1"))).startswith("signal:")
        assert len(double.sent) == taken + 2

    with SignalDouble() as double:
        double.fault = Fault(kind)
        with_channel(folder, double, use)


@pytest.mark.usefixtures("at_once")
@pytest.mark.req("FR-005", "R2", "AC-011")
def test_after_two_lost_answers_a_third_copy_waits_but_is_not_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(channel: SignalCli) -> None:
        for _ in range(2):
            with pytest.raises(Retryable):
                await channel.deliver(row("r1"))
        assert len(double.sent) == 2
        double.fault = Fault()
        with pytest.raises(Retryable, match=r"given away 2 times and every answer was lost: .* again in 300 s"):
            await channel.deliver(row("r1"))
        assert len(double.sent) == 2
        assert (await channel.deliver(row("r2"))).startswith("signal:"), "it holds up no other"
        monkeypatch.setattr(signal_cli, "LOST_TWICE_S", 0.0)
        assert (await channel.deliver(row("r1"))).startswith("signal:")

    with SignalDouble() as double:
        double.fault = Fault(Kind.DROP, if_text="r1")  # a plain question is answered
        with_channel(folder, double, use)


@pytest.mark.usefixtures("at_once")
@pytest.mark.req("FR-005", "R2")
def test_the_second_copy_is_waited_for_attempt_after_attempt(folder: Path) -> None:
    async def use(channel: SignalCli) -> None:
        with pytest.raises(Retryable):
            await channel.deliver(row("r1"))
        double.fault = Fault(Kind.DELAY, seconds=60, if_text="r1")
        for _ in range(2):
            with pytest.raises(Retryable, match=r"no answer within|not asked"):
                await channel.deliver(row("r1"))
        double.fault = Fault()  # it answers now
        assert (await channel.deliver(row("r1"))).startswith("signal:")
        assert len(double.sent) == 2

    with SignalDouble(socket_path=folder / "s.sock") as double:
        double.fault = Fault(Kind.DROP, times=1)
        double.transports = double.transports[:1]
        with_channel(folder, double, use)


@pytest.mark.req("FR-005")
def test_what_was_handed_over_survives_a_kill(folder: Path) -> None:
    path = folder / flights.FILE
    first = Flights(path)
    for name in ("open", "refused", "lost", "arrived", "told"):
        first.begin(name)
    first.refused("refused")
    first.lose("lost")
    first.arrived("arrived", "signal:1 by x")
    first.arrived("told", "signal:2 by x")
    first.forget("told")
    # No close: as after kill -9. What was begun and has no outcome is lost, once.
    second = Flights(path)
    assert {name: second.lost(name) for name in ("open", "refused", "lost", "arrived", "told")} == {
        "open": 1, "refused": 0, "lost": 1, "arrived": 0, "told": 0,
    }  # fmt: skip
    assert second.receipts() == {"arrived": "signal:1 by x"}
    second.begin("open")
    assert Flights(path).lost("open") == 2
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.req("FR-005")
def test_a_file_that_is_torn_or_cannot_be_written_keeps_no_message_back(folder: Path) -> None:
    path = folder / flights.FILE
    path.write_bytes(b'{"row":"a","lost":1}\n\xff\xfe nonsense\n{"row":"b","los')
    torn = Flights(path)
    assert (torn.lost("a"), torn.lost("b")) == (1, 0)
    nowhere = Flights(folder / "no" / "such" / "folder")
    nowhere.begin("a")
    nowhere.lose("a")
    assert nowhere.lost("a") == 1
    full = Flights(folder / "full")
    assert full._fd is not None
    os.close(full._fd)
    full._fd = os.open("/dev/full", os.O_WRONLY)
    full.begin("a")
    full.lose("a")
    assert full.lost("a") == 1


def test_it_does_not_grow_with_what_is_over(folder: Path) -> None:
    path = folder / flights.FILE
    kept = Flights(path)
    for n in range(5_000):
        kept.begin(f"r{n}")
        kept.arrived(f"r{n}", "signal:1 by x")
        kept.forget(f"r{n}")
    assert path.stat().st_size < 200_000
    assert Flights(path).receipts() == {}
