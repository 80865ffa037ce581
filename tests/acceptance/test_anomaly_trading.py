"""A signal left alone and a trade that no signal accounts for, on the real daemon, each beside a healthy twin."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from tests.lab.daemon import Daemon, Site
from tests.lab.probes import database, write

FAST = '[policy]\nclear_interval = "100ms"\n'


def signal_toml(folder: Path, name: str, more: str = "") -> str:
    return f'[trading.{name}]\nsignal_file = "{folder / name}.json"\ninterval = "1s"\n{more}\n'


def signal(folder: Path, name: str, age_s: float = 0.0, **keys: object) -> None:
    keys = {"signal": "BUY", "symbol": "BTC/USDT", "updated_at": time.time() - age_s, **keys}
    write(folder / f"{name}.json", msgspec.json.encode(keys))


def opened(daemon: Daemon, target: str, anomaly: str) -> None:
    (row,) = daemon.wait_state(target, "escalated")
    assert (row["anomaly_type"], row["severity"]) == (anomaly, "high")


def targets(daemon: Daemon) -> set[str]:
    return {row["target_id"] for row in daemon.incidents()}


@pytest.mark.req("FR-001", "FR-002", "FR-004", "R7", "R8")
def test_a_signal_left_alone_is_stale_until_it_is_written_again(here: Site) -> None:
    stop = here.folder / "stop"
    process = f'[process.halted]\nmatch = "no-such-program-4711"\nstop_file = "{stop}"\n'
    stop.touch()
    config = (
        FAST
        + process
        + signal_toml(here.folder, "old", 'max_age = "2s"')
        + signal_toml(here.folder, "well", 'max_age = "5m"')
        + signal_toml(here.folder, "none")
        + signal_toml(here.folder, "halted", 'max_age = "2s"\nprocess = "halted"')
        + signal_toml(here.folder, "broken", 'max_age = "2s"')
    )
    for name in ("old", "well", "halted"):
        signal(here.folder, name)
    write(here.folder / "broken.json", '{"updated_at": "soon"}')
    daemon = here.daemon(config)
    daemon.start()
    opened(daemon, "old-signals", "signal_stale")
    opened(daemon, "none-signals", "signal_stale")
    opened(daemon, "broken-signals", "probe_unavailable")
    assert targets(daemon) == {"old-signals", "none-signals", "broken-signals"}
    for name in ("old", "none", "broken"):
        # Not of the future only by a little: it must stay fresh until everything has closed.
        signal(here.folder, name, age_s=-4)
        daemon.wait_state(f"{name}-signals", "self_resolved")


@pytest.mark.req("FR-002", "R7", "R8")
def test_when_the_stop_file_goes_the_silence_is_an_anomaly(here: Site) -> None:
    stop = here.folder / "stop"
    stop.touch()
    process = f'[process.bot]\nmatch = "no-such-program-4711"\nstop_file = "{stop}"\ninterval = "1s"\n'
    signal(here.folder, "bot", age_s=3600)
    daemon = here.daemon(FAST + process + signal_toml(here.folder, "bot", 'process = "bot"'))
    daemon.start()
    stop.unlink()
    opened(daemon, "bot-signals", "signal_stale")
    stop.touch()
    daemon.wait_state("bot-signals", "self_resolved")


TRADES = "CREATE TABLE trades (id INTEGER PRIMARY KEY, symbol TEXT, side TEXT, status TEXT, opened_at TEXT)"


def trade(folder: Path, name: str, symbol: str) -> Path:
    insert = f"INSERT INTO trades VALUES (1, '{symbol}', 'LONG', 'open', '2026-02-18')"
    return database(folder / f"{name}.db", "PRAGMA journal_mode=WAL", TRADES, insert)


@pytest.mark.req("FR-001", "FR-002", "FR-004", "R7")
def test_a_phantom_position_is_told_until_it_is_closed(here: Site) -> None:
    config = FAST
    for name, symbol in (("ghost", "ETH/USDT"), ("well", "btc-usdt"), ("stale", "ETH/USDT")):
        config += signal_toml(here.folder, name, f'trades_db = "{trade(here.folder, name, symbol)}"\nmax_age = "10m"')
        signal(here.folder, name, age_s=3600 if name == "stale" else 0)
    daemon = here.daemon(config)
    daemon.start()
    opened(daemon, "ghost-positions", "phantom_position")
    (row,) = daemon.incidents("ghost-positions")
    assert "ETH/USDT LONG (trade 1)" in str(row)
    daemon.wait_state("stale-signals", "escalated")
    assert targets(daemon) == {"ghost-positions", "stale-signals"}
    database(here.folder / "ghost.db", "UPDATE trades SET status = 'closed'")
    daemon.wait_state("ghost-positions", "self_resolved")
