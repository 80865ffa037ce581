"""The sites that are simulated: real configurations, as an operator would write them, with everything in RAM only."""

from __future__ import annotations

from functools import cache

import msgspec

from supervisor.config import Config, parse

SIZES = ("services", "mixed", "fleet")
ACCOUNT = "+10000000000"  # that pages
ANNA, BERT = "+10000000001", "00000000-0000-4000-8000-00000000b0b0"  # who may answer

_HEAD = f"""
[healctl]
state_dir = "/sim/state"
runtime_dir = "/sim/run"
[disk]
mounts = ["/data"]
interval = "5m"
[memory]
interval = "5m"
[notify.signal]
transports = ["http://127.0.0.1:1"]
account = "{ACCOUNT}"
recipient = "{ANNA}"
approvers = ["{ANNA}", "{BERT}"]
[fleet]
interval = "5m"
retries = 2
retry_interval = "5s"
"""
_AUTO = """
[process.{name}]
pid_file = "/sim/{name}.pid"
match = "{name}"
auto_restart = true
restart = {{ argv = ["/sim/start", "{name}"] }}
interval = "5m"
"""
_ASKS = """
[process.asks]
pid_file = "/sim/asks.pid"
match = "asks"
endpoint = "tcp://127.0.0.1:1"
restart = { argv = ["/sim/start", "asks"] }
interval = "5m"
[process.blind]
pid_file = "/sim/blind.pid"
restart = { argv = ["/sim/start", "blind"] }
interval = "5m"
[process.bare]
pid_file = "/sim/bare.pid"
interval = "5m"
"""
_MANAGED = """
[process.unit]
pid_file = "/sim/unit.pid"
match = "unit"
auto_restart = true
restart = { systemd = "unit" }
interval = "5m"
"""
_TRADING = """
[process.augur]
pid_file = "/sim/augur.pid"
match = "augur"
auto_restart = true
restart = { argv = ["/sim/start", "augur"] }
interval = "5m"
[trading.augur]
signal_file = "/sim/signal.json"
trades_db = "/sim/trades.db"
process = "augur"
interval = "5m"
"""
_GATEWAY = """
[gateway.{name}]
status = ["/sim/gw", "status"]
restart = ["/sim/gw", "restart", "{name}"]
health_url = "http://127.0.0.1:1/{name}"
auto_restart = {auto}
interval = "5m"
"""
_PIPELINE = """
[pipeline.news]
state_file = "/sim/news.json"
stuck_after = "10m"
stage_done = ["/sim/done"]
interval = "5m"
"""
_LOGS = """
[logs.app]
paths = ["/sim/*.log"]
interval = "5m"
"""
TASKS = ("pipeline:task-001-x", "pipeline:task-002-y")
HOSTS = tuple(f"fleet:h{n}" for n in range(6))


def _hosts() -> str:
    return "".join(f'[fleet.hosts.h{n}]\naddress = "127.0.0.{n + 1}"\n' for n in range(len(HOSTS)))


@cache
def site(size: str) -> Config:
    """One of `SIZES`."""
    text = _HEAD
    if size == "services":
        text += "".join(_AUTO.format(name=f"auto-{letter}") for letter in "abcdef") + _ASKS + _MANAGED
    elif size == "mixed":
        text += _AUTO.format(name="auto-a") + _ASKS + _TRADING + _PIPELINE + _LOGS
        text += _GATEWAY.format(name="gw", auto="true")
    else:
        text += _AUTO.format(name="auto-a") + _hosts() + _LOGS
        text += "".join(_GATEWAY.format(name=f"gw{n}", auto="true" if n % 2 else "false") for n in range(5))
    return parse(text, f"the simulated site {size!r}")


def without(config: Config, name: str) -> Config:
    """The same site after its operator has taken a service out."""
    return msgspec.structs.replace(config, process={key: it for key, it in config.process.items() if key != name})
