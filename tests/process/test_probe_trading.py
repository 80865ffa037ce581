"""The trading probe on real files and real SQLite databases: how old, what is open, and when nobody can tell."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from probes import look, trading
from probes.base import Refused
from probes.trading import SIGNAL_BYTES_MAX, TradingProbe
from supervisor import signals
from supervisor.config import Config, Duration, ProcessSection, TradingSection
from supervisor.incidents.readings import (
    HealthReading,
    PositionsData,
    SignalData,
    SourceReading,
    Stamp,
    Unavailable,
)
from tests.lab.probes import database, watching, write

DEADLINE_S = 5.0
TRADES = """CREATE TABLE trades (id INTEGER PRIMARY KEY, symbol TEXT, side TEXT, status TEXT, entry_price REAL,
    current_price REAL, pnl_pct REAL, opened_at TEXT, closed_at TEXT)"""


def config_of(folder: Path, *, stop_file: bool = False, positions: bool = False, **keys: object) -> Config:
    section = TradingSection(
        signal_file=str(folder / "live_signal.json"),
        process="augur-executor" if stop_file else "",
        trades_db=str(folder / "live_trades.db") if positions else "",
        **keys,  # type: ignore[arg-type]
    )
    process = {"augur-executor": ProcessSection(match="augur", stop_file=str(folder / "stop") if stop_file else "")}
    return Config(trading={"augur": section}, process=process)


def read(probe: TradingProbe, kind: str = "signals") -> HealthReading:
    return asyncio.run(probe.read(f"augur-{kind}", DEADLINE_S))


def signal(folder: Path, **keys: object) -> Path:
    keys = {"signal": "BUY", "symbol": "BTC/USDT", "updated_at": time.time(), **keys}
    return write(folder / "live_signal.json", msgspec.json.encode(keys))


def live(probe: TradingProbe) -> SignalData:
    reading = read(probe)
    assert isinstance(reading.data, SignalData), reading.error
    return reading.data


def books(probe: TradingProbe) -> PositionsData:
    reading = read(probe, "positions")
    assert isinstance(reading.data, PositionsData), reading.error
    return reading.data


def trades(folder: Path, *rows: str) -> Path:
    inserts = [f"INSERT INTO trades (id, symbol, side, status, opened_at) VALUES ({row}, '2026-02-18')" for row in rows]
    return database(folder / "live_trades.db", TRADES, *inserts)


# --- the live signal ------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001")
def test_its_sources_are_the_signal_and_with_a_database_the_positions(tmp_path: Path) -> None:
    (one,) = TradingProbe(config_of(tmp_path, interval=Duration(90))).sources()
    assert (one.source_id, one.poll_interval_ms, one.freshness_threshold_ms) == ("augur-signals", 90_000, 90_000)
    names = [source.source_id for source in TradingProbe(config_of(tmp_path, positions=True)).sources()]
    assert names == ["augur-signals", "augur-positions"]


@pytest.mark.req("FR-001")
def test_its_age_is_told_by_the_first_key_that_is_there(tmp_path: Path) -> None:
    probe = TradingProbe(config_of(tmp_path, max_age=Duration(300)))
    signal(tmp_path, updated_at=time.time() - 100, timestamp=time.time())
    found = live(probe)
    assert 100 <= found.age_s < 110
    assert (found.max_age_s, found.stamp, found.symbol, found.side) == (300, Stamp.KEY, "BTC/USDT", "long")
    write(tmp_path / "live_signal.json", msgspec.json.encode({"timestamp": int((time.time() - 50) * 1000)}))
    assert 50 <= live(probe).age_s < 60
    local = datetime.fromtimestamp(time.time() - 20).isoformat(sep=" ")
    signal(tmp_path, updated_at=local)
    assert 20 <= live(probe).age_s < 30


@pytest.mark.req("FR-001")
def test_the_files_own_time_counts_only_where_no_key_tells_one(tmp_path: Path) -> None:
    probe = TradingProbe(config_of(tmp_path))
    path = write(tmp_path / "live_signal.json", '{"signal": "HOLD"}')
    os.utime(path, (time.time() - 1000,) * 2)
    found = live(probe)
    assert found.stamp is Stamp.MTIME
    assert 1000 <= found.age_s < 1010
    write(tmp_path / "live_signal.json", '{"signal": "HOLD", "updated_at": null}')
    assert read(probe).reason is Unavailable.BAD_DATA


@pytest.mark.req("FR-001", "R9")
def test_a_time_to_come_is_reported_and_never_fresh(tmp_path: Path) -> None:
    probe = TradingProbe(config_of(tmp_path))
    signal(tmp_path, updated_at=time.time() + 3600)
    reading = read(probe)
    assert (reading.available, reading.reason, reading.data) == (False, Unavailable.BAD_DATA, None)
    assert "in the future" in reading.error
    signal(tmp_path, updated_at=time.time() + 3)  # two clocks may be that far apart
    assert live(probe).age_s == 0


@pytest.mark.req("R9")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b'{"updated_at": 1', "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"\x00" * 100, "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b"17", "no JSON object"),
        (b'{"updated_at": "soon"}', "updated_at"),
        (b'{"updated_at": true}', "updated_at"),
        (b'{"updated_at": {"a": 1}, "timestamp": 1700000000}', "updated_at"),
        (b'{"updated_at": 1e400}', ""),
        (b'{"a": "' + b"x" * SIGNAL_BYTES_MAX + b'"}', "at most"),
    ],
)
def test_what_is_no_signal_is_bad_data_with_a_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    write(tmp_path / "live_signal.json", content)
    reading = read(TradingProbe(config_of(tmp_path)))
    assert (reading.available, reading.reason) == (False, Unavailable.BAD_DATA)
    assert words in reading.error
    assert len(reading.error) <= 500


@pytest.mark.req("R9")
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_fifo_or_directory_in_its_place_does_not_block(tmp_path: Path, make: object) -> None:
    make(tmp_path / "live_signal.json")  # type: ignore[operator]
    reading = read(TradingProbe(config_of(tmp_path)))
    assert reading.reason is Unavailable.BAD_DATA


@pytest.mark.req("R9")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody who may not read")
def test_a_file_that_may_not_be_read_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    signal(tmp_path / "closed")
    probe = TradingProbe(config_of(tmp_path / "closed", stop_file=True))
    plain = TradingProbe(config_of(tmp_path / "closed"))
    child = os.fork()
    if child == 0:  # everything about another user stays in this process: threads share it
        code = 1
        try:
            os.setresuid(65534, 65534, 65534)
            reasons = [read(plain).reason, read(probe).reason]
            code = 0 if reasons == [Unavailable.PERMISSION] * 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.req("FR-002", "R9")
def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        reading = read(TradingProbe(config_of(folder)))
        assert (reading.available, reading.reason) == (False, Unavailable.MISSING)
        assert reading.error == "the signal file does not exist"


@pytest.mark.req("FR-001")
def test_a_writer_in_the_middle_is_waited_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "live_signal.json", '{"signal": "BU')
    monkeypatch.setattr("supervisor.jsonfile.time.sleep", lambda _: signal(tmp_path))
    assert live(TradingProbe(config_of(tmp_path))).side == "long"
    path.unlink()
    assert live(TradingProbe(config_of(tmp_path))).side == "long"


@pytest.mark.req("FR-002", "R8")
def test_with_a_stop_file_no_signal_is_expected(tmp_path: Path) -> None:
    probe = TradingProbe(config_of(tmp_path, stop_file=True))
    signal(tmp_path, updated_at=time.time() - 10_000)
    assert (live(probe).meant_to_stop, live(probe).process) == (False, "augur-executor")
    (tmp_path / "stop").symlink_to("nowhere")
    assert live(probe).meant_to_stop
    for content in ('{"signal": ', None):
        (tmp_path / "live_signal.json").unlink()
        if content is not None:
            write(tmp_path / "live_signal.json", content)
        assert live(probe).meant_to_stop, "whether it can be read is then no matter"
    (tmp_path / "stop").unlink()
    assert read(probe).reason is Unavailable.MISSING


@pytest.mark.req("FR-001")
@pytest.mark.parametrize(
    ("words", "side"),
    [("BUY LONG buy Long", "long"), ("SELL short", "short"), ("HOLD wait", "hold"),
     ("FLAT exit CLOSE none NEUTRAL", "flat"), ("MAYBE", "")],
)  # fmt: skip
def test_sides_by_their_words(tmp_path: Path, words: str, side: str) -> None:
    probe = TradingProbe(config_of(tmp_path))
    for word in words.split():
        signal(tmp_path, signal=word)
        assert live(probe).side == side
        write(tmp_path / "live_signal.json", msgspec.json.encode({"side": word, "timestamp": time.time()}))
        assert live(probe).side == side
    for strange in (7, None, ["BUY"], {"side": "BUY"}):
        signal(tmp_path, signal=strange)
        assert live(probe).side == ""


@pytest.mark.req("R9")
def test_a_file_system_that_hangs_delays_nobody_else_and_has_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hung").mkdir()
    (tmp_path / "well").mkdir()
    signal(tmp_path / "well")
    over, real = threading.Event(), signals.load

    def load(path: str, *rest: object) -> object:
        if "hung" in path:
            over.wait(20)
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(signals, "load", load)
    sections = {name: config_of(tmp_path / name).trading["augur"] for name in ("hung", "well")}
    probe = TradingProbe(Config(trading=sections))

    async def script() -> None:
        for _ in range(3):
            hung, well = await asyncio.gather(probe.read("hung-signals", 0.4), probe.read("well-signals", DEADLINE_S))
            assert (hung.available, hung.reason) == (False, Unavailable.DEADLINE)
            assert "hangs" in hung.error
            assert well.available
        assert [thread.name for thread in threading.enumerate()].count("look hung-signals") == 1
        over.set()
        assert (await probe.read("hung-signals", DEADLINE_S)).reason is Unavailable.MISSING

    asyncio.run(script())


def test_a_look_is_shared_by_those_who_ask_before_it_begins_and_never_older_than_the_question() -> None:
    calls: list[int] = []
    gate = threading.Event()

    def call() -> int:
        calls.append(len(calls))
        gate.wait(5)
        return len(calls)

    async def script() -> None:
        one = look.Look("test", call)
        first = asyncio.create_task(one.now())
        while not calls:
            await asyncio.sleep(0)
        later = [asyncio.create_task(one.now()) for _ in range(3)]
        await asyncio.sleep(0)
        gate.set()
        assert await first == 1
        assert await asyncio.gather(*later) == [2, 2, 2]

    asyncio.run(script())


# --- events ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("R8")
def test_a_change_is_told_by_the_kernel_however_it_is_written(tmp_path: Path) -> None:
    async def script() -> None:
        path = signal(tmp_path)
        probe = TradingProbe(config_of(tmp_path, max_age=Duration(300)))
        told = await watching(probe)
        await probe.read("augur-signals", DEADLINE_S)
        ((name, in_s),) = told.wishes
        assert name == "augur-signals"
        assert 290 < in_s <= 300.05, "a threshold in time has its own timer"

        async def told_of(change: object) -> None:
            since = len(told.wishes)
            change()  # type: ignore[operator]
            await told.soon("augur-signals", since)

        await told_of(lambda: signal(tmp_path))
        await told_of(lambda: path.write_text("{}"))
        await told_of(lambda: os.utime(path))
        await told_of(path.unlink)
        await told_of(lambda: signal(tmp_path))
        since = len(told.wishes)
        write(tmp_path / "another.json", "{}")
        await told_of(lambda: signal(tmp_path))
        assert len({name for name, _ in told.wishes[since:]}) == 1
        probe.close()

    asyncio.run(script())


@pytest.mark.req("R8")
def test_a_folder_that_comes_later_or_is_replaced_is_watched_from_the_next_poll_on(tmp_path: Path) -> None:
    async def script() -> None:
        folder = tmp_path / "later"
        probe = TradingProbe(config_of(folder))
        told = await watching(probe)
        assert (await probe.read("augur-signals", DEADLINE_S)).reason is Unavailable.MISSING
        for _ in range(2):
            folder.mkdir()
            assert (await probe.read("augur-signals", DEADLINE_S)).reason is Unavailable.MISSING
            since = len(told.wishes)
            signal(folder)
            await told.soon("augur-signals", since)
            folder.rename(tmp_path / f"old{_}")
        probe.close()

    asyncio.run(script())


@pytest.mark.req("R8")
def test_a_link_is_watched_at_both_ends(tmp_path: Path) -> None:
    async def script() -> None:
        (tmp_path / "real").mkdir()
        signal(tmp_path / "real")
        (tmp_path / "live_signal.json").symlink_to(tmp_path / "real/live_signal.json")
        probe = TradingProbe(config_of(tmp_path))
        told = await watching(probe)
        await probe.read("augur-signals", DEADLINE_S)
        since = len(told.wishes)
        signal(tmp_path / "real")
        await told.soon("augur-signals", since)
        probe.close()

    asyncio.run(script())


@pytest.mark.req("R8")
def test_reconfiguring_keeps_what_has_not_changed_and_lets_go_of_the_rest(tmp_path: Path) -> None:
    async def script() -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            signal(tmp_path / name)
        sections = {name: config_of(tmp_path / name).trading["augur"] for name in ("a", "b")}
        probe = TradingProbe(Config(trading=sections))
        told = await watching(probe)
        for name in sections:
            await probe.read(f"{name}-signals", DEADLINE_S)
        kept = probe._known["a"]
        probe.reconfigure(Config(trading={"a": sections["a"]}))
        assert probe._known == {"a": kept}
        assert probe._watch is not None
        assert probe._watch._at.keys() == {sections["a"].signal_file}
        assert [source.source_id for source in probe.sources()] == ["a-signals"]
        gone = await probe.read("b-signals", DEADLINE_S)
        assert not gone.available
        since = len(told.wishes)
        signal(tmp_path / "b")
        signal(tmp_path / "a")
        await told.soon("a-signals", since)
        assert {name for name, _ in told.wishes[since:]} == {"a-signals"}
        changed = msgspec.structs.replace(sections["a"], max_age=Duration(1))
        probe.reconfigure(Config(trading={"a": changed}))
        reading = await probe.read("a-signals", DEADLINE_S)
        assert isinstance(reading.data, SignalData)
        assert reading.data.max_age_s == 1
        probe.close()

    asyncio.run(script())


# --- positions ------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-002")
def test_open_trades_are_compared_by_symbol_and_side(tmp_path: Path) -> None:
    trades(
        tmp_path,
        "1, 'BTC/USDT', 'LONG', 'open'",
        "2, 'btc-usdt', 'short', 'OPEN'",
        "3, 'ETH/USDT', 'LONG', ' Open '",
        "4, 'BTC/USDT', 'SHORT', 'closed'",
        "5, 'BTCUSDT', 'mystery', 'open'",
        "6, 'BTC_USDT', NULL, 'open'",
    )
    probe = TradingProbe(config_of(tmp_path, positions=True))
    for word, phantoms in (
        ("BUY", {"2", "3"}),
        ("SELL", {"1", "3"}),
        ("HOLD", {"3"}),
        ("FLAT", {"1", "2", "3", "5", "6"}),
    ):
        signal(tmp_path, signal=word)
        found = books(probe)
        assert (found.signal_fresh, found.open_trades) == (True, 5)
        assert {trade.trade_id for trade in found.phantoms} == phantoms, word
    assert found.phantoms[0].opened_at == "2026-02-18"
    assert not list(tmp_path.glob("*-wal")) + list(tmp_path.glob("*-journal"))


@pytest.mark.req("FR-002", "R9")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"signal": "BUY", "symbol": "BTC", "updated_at": 1_700_000_000}, "stale"),
        ({"signal": "MAYBE", "symbol": "BTC"}, "MAYBE"),
        ({"signal": "BUY"}, "no symbol"),
        ({"signal": "BUY", "symbol": "BTC", "updated_at": "soon"}, "updated_at"),
        (None, "does not exist"),
    ],
)
def test_without_a_signal_that_can_be_compared_nothing_is_a_phantom(
    tmp_path: Path, content: dict[str, object] | None, words: str
) -> None:
    trades(tmp_path, "1, 'ETH', 'LONG', 'open'")
    if content is not None:
        write(tmp_path / "live_signal.json", msgspec.json.encode(content))
    found = books(TradingProbe(config_of(tmp_path, positions=True)))
    assert (found.signal_fresh, found.open_trades, found.phantoms) == (False, 1, ())
    assert words in found.detail


@pytest.mark.req("FR-002", "NFR-002")
def test_a_trade_is_a_phantom_when_it_was_one_for_some_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trading, "SETTLE_S", 30.0)
    trades(tmp_path, "1, 'ETH', 'LONG', 'open'", "2, 'BTC', 'LONG', 'open'")
    probe = TradingProbe(config_of(tmp_path, positions=True))
    now_s = [100.0]
    monkeypatch.setattr("probes.trading.clock.monotonic_s", lambda: now_s[0])

    def seen() -> tuple[set[str], bool]:
        found = books(probe)
        return {trade.trade_id for trade in found.phantoms}, found.settling

    signal(tmp_path, symbol="BTC")
    assert seen() == ({"1"}, True)
    now_s[0] += 29.9
    assert seen() == ({"1"}, True)
    now_s[0] += 0.1
    assert seen() == ({"1"}, False)
    signal(tmp_path, symbol="XRP")
    assert seen() == ({"1"}, False), "the other is one since this moment only"
    now_s[0] += 30
    assert seen() == ({"1", "2"}, False)
    signal(tmp_path, symbol="ETH")
    assert seen() == ({"2"}, False)
    signal(tmp_path, symbol="BTC")
    assert seen() == ({"1"}, True), "in between it was none"


@pytest.mark.req("R8")
def test_another_signal_brings_the_next_look_at_the_trades_forward(tmp_path: Path) -> None:
    async def script() -> None:
        trades(tmp_path, "1, 'ETH', 'LONG', 'open'")
        probe = TradingProbe(config_of(tmp_path, positions=True))
        told = await watching(probe)
        for word in ("BUY", "BUY", "SELL"):
            signal(tmp_path, signal=word)
            await probe.read("augur-signals", DEADLINE_S)
        assert [in_s for name, in_s in told.wishes if name == "augur-positions"] == [trading.SETTLE_S]
        probe.close()

    asyncio.run(script())


@pytest.mark.req("R9")
@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE TABLE positions (id)", "no table trades"),
        ("CREATE TABLE trades (id, symbol)", "lacks side, status"),
        ("CREATE VIEW trades AS SELECT 1 AS id, 2 AS symbol", "lacks side, status"),
    ],
)
def test_another_schema_is_named(tmp_path: Path, statement: str, words: str) -> None:
    signal(tmp_path)
    database(tmp_path / "live_trades.db", statement)
    reading = read(TradingProbe(config_of(tmp_path, positions=True)), "positions")
    assert (reading.available, reading.reason) == (False, Unavailable.BAD_DATA)
    assert words in reading.error


@pytest.mark.req("R9")
def test_strange_values_in_the_trades_are_values(tmp_path: Path) -> None:
    signal(tmp_path, symbol="BTC")
    trades(tmp_path, "1, NULL, 3, 'open'", "2, x'ff00', 1.5, 'open'", "3, CAST(x'ff' AS TEXT), 'LONG', 'open'")
    found = books(TradingProbe(config_of(tmp_path, positions=True)))
    assert len(found.phantoms) == 3
    msgspec.json.encode(found)


@pytest.mark.req("R9")
def test_a_database_that_is_missing_or_none_is_unavailable(tmp_path: Path) -> None:
    signal(tmp_path)
    probe = TradingProbe(config_of(tmp_path, positions=True))
    assert read(probe, "positions").reason is Unavailable.MISSING
    assert not (tmp_path / "live_trades.db").exists()
    write(tmp_path / "live_trades.db", "no database at all, " * 100)
    assert read(probe, "positions").reason is Unavailable.BAD_DATA


def test_many_open_trades_are_bounded_and_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.positions.ROWS_MAX", 5)
    monkeypatch.setattr("supervisor.positions.PHANTOMS_MAX", 3)
    signal(tmp_path)
    trades(tmp_path, *(f"{n}, 'ETH', 'LONG', 'open'" for n in range(9)))
    found = books(TradingProbe(config_of(tmp_path, positions=True)))
    assert (found.open_trades, len(found.phantoms)) == (5, 3)
    assert "more than 5 open trades" in found.detail


# --- from outside ---------------------------------------------------------------------------------------------------


def given(source_id: str = "augur.signals", captured_ago_s: float = 0.0, **keys: object) -> SourceReading:
    data = msgspec.json.encode({"signal": "BUY", "symbol": "BTC", "updated_at": time.time() - 60})
    keys = {"data_json": data, **keys}
    return SourceReading(source_id, time.time() - captured_ago_s, 600_000, **{"available": True, **keys})  # type: ignore[arg-type]


@pytest.mark.req("NFR-004", "R7")
@pytest.mark.parametrize("source_id", ["augur.signals", "augur-signals"])
def test_a_reading_from_outside_is_as_old_as_it_says(tmp_path: Path, source_id: str) -> None:
    probe = TradingProbe(config_of(tmp_path))
    (reading,) = probe.outside(given(source_id, captured_ago_s=10))
    assert (reading.target_id, reading.external, reading.freshness_ms) == ("augur-signals", True, 600_000)
    assert isinstance(reading.data, SignalData)
    assert 45 < reading.data.age_s < 55
    assert (reading.data.side, reading.data.symbol) == ("long", "BTC")


@pytest.mark.req("NFR-004", "R9")
@pytest.mark.parametrize(
    "hostile",
    [
        given("augur.positions"),
        given("augur-positions"),
        given("other.signals"),
        given(".signals"),
        given(""),
        given("signals"),
        given(available=False),
        given(captured_ago_s=601),
        given(captured_ago_s=-3600),
        given(data_json=b"null"),
        given(data_json=b"[]"),
        given(data_json=b"{"),
        given(data_json=b"{}"),
        given(data_json=b'{"updated_at": "soon"}'),
        given(data_json=b'{"updated_at": 4000000000}'),
        given(data_json=b'{"a": "' + b"x" * SIGNAL_BYTES_MAX + b'"}'),
    ],
)
def test_hostile_readings_from_outside_are_refused_in_a_sentence(tmp_path: Path, hostile: SourceReading) -> None:
    with pytest.raises(Refused) as refused:
        TradingProbe(config_of(tmp_path)).outside(hostile)
    assert str(refused.value)
