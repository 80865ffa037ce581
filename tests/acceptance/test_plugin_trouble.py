"""Plugins that raise, hang, crash, leak and lie, on the real daemon: each is told, nobody else is touched (issue 8)."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from supervisor import proc
from supervisor.errors import HealError
from tests.lab.daemon import Daemon, Service, Site, until
from tests.lab.plugged import Environment

pytestmark = pytest.mark.req("R9", "R11", "AC-011", "NFR-001")

PROBES = """\
import os, time
from types import MappingProxyType
import setproctitle
from probes.base import Probe, Source, begin
from supervisor.incidents.readings import CheckData, Finding, ProcessData, Severity, Status

with open("{folder}/imported", "a") as file:
    file.write(setproctitle.getproctitle() + "\\n")

class Odd(Probe):
    api = 1
    anomalies = MappingProxyType({{"odd": Severity.HIGH}})
    def __init__(self, config): pass
    def reconfigure(self, config): pass
    def sources(self): return (Source(self.family + ":one", 300, 300),)
    def said(self, began, *findings): return began.tells(CheckData(findings))
    async def read(self, target_id, deadline_s):
        return self.odd(begin(Source(target_id, 300, 300), self.family))

class Good(Odd):
    family = "good"
    def odd(self, began):
        odd = os.path.exists("{folder}/odd")
        return self.said(began, Finding("odd", Status.FIRING if odd else Status.CLEAR, "it is"))
class Raises(Odd):
    family = "raises"
    def odd(self, began): raise RuntimeError("boom")
class Hangs(Odd):
    family = "hangs"
    def odd(self, began): time.sleep(3600)
class Crashes(Odd):
    family = "crashes"
    def odd(self, began): os.abort()
class Leaks(Odd):
    family = "leaks"
    def odd(self, began): self.kept = [bytearray(1 << 28) for _ in range(64)]
class Lies(Odd):
    family = "lies"
    def odd(self, began): return began.tells(ProcessData(alive=False))
class Mute(Odd):
    family = "mute"
    def odd(self, began): return self.said(began)
class Wedged(Odd):
    family = "wedged"
    def __init__(self, config): time.sleep(3600)
"""
FAMILIES = ("good", "raises", "hangs", "crashes", "leaks", "lies", "mute", "wedged")
CHANNELS = """\
import os, time
from supervisor.notifier.channel import Channel

class Odd(Channel):
    api = 1
    def __init__(self, config): pass
    async def deliver(self, row): return self.odd(row)
class Sends(Odd):
    channel = "sends"
    def odd(self, row):
        with open("{folder}/sent", "a") as file:
            file.write(row.id + "\\n")
        return row.id
class Throws(Odd):
    channel = "throws"
    def odd(self, row): raise RuntimeError("boom")
class Blocks(Odd):
    channel = "blocks"
    def odd(self, row): time.sleep(3600)
class Dies(Odd):
    channel = "dies"
    def odd(self, row): os._exit(3)
class Silent(Odd):
    channel = "silent"
    def odd(self, row): return ""
"""
NAMES = ("sends", "throws", "blocks", "dies", "silent")
STEPS = """\
import asyncio, os, time
from remediators.base import Outcome, Step
from supervisor.incidents.model import Effect
from supervisor.messages import StepPlan

class Odd(Step):
    api = 1
    effect = Effect.CHANGE
    def plan(self, ctx): return StepPlan(self.spec.step_id, "do as it likes", True)
    async def run(self, ctx): return self.odd(ctx)
class Fails(Odd):
    kind = "fails"
    def odd(self, ctx): raise RuntimeError("boom")
class Sleeps(Odd):
    kind = "sleeps"
    def odd(self, ctx):
        print("asleep as", os.getpid())
        if os.fork() == 0:
            time.sleep(3600)
        with open("{folder}/asleep", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(3600)
class Breaks(Odd):
    kind = "breaks"
    def odd(self, ctx): os.abort()
class Fools(Odd):
    kind = "fools"
    def odd(self, ctx): return Outcome("all is well", cleared=True)
class Empties(Odd):
    kind = "empties"
    def odd(self, ctx): return None
class Stalls(Odd):
    kind = "stalls"
    def plan(self, ctx): time.sleep(3600)
    def odd(self, ctx): return Outcome("never asked")
"""
KINDS = ("fails", "sleeps", "breaks", "fools", "empties", "stalls")


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "venv")


def entries(group: str, module: str, names: tuple[str, ...]) -> str:
    return f"[healctl.{group}]\n" + "".join(f"{name} = {module}:{name.capitalize()}\n" for name in names)


def daemon_of(here: Site, environment: Environment, plugins: str, more: str) -> tuple[Daemon, Service]:
    web = here.service("web")
    web.start()
    daemon = here.daemon(web.toml() + more)
    text = daemon.config_file.read_text().replace("[healctl]\n", f"[healctl]\nplugins = [{plugins}]\n")
    daemon.config_file.write_text(text)
    daemon.program = [str(environment.healctl)]
    return daemon, web


def ledger(daemon: Daemon, question: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{daemon.state_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
        return db.execute(question).fetchall()


def test_a_probe_that_is_broken_in_any_way_harms_nobody_else(here: Site, environment: Environment) -> None:
    environment.put("acme-odd", PROBES.format(folder=here.folder), entries("probes", "acme_odd", FAMILIES))
    tree = (
        '[tree]\nbeat = "200ms"\nbeat_within = "3s"\nready_within = "3s"\nabort_grace = "100ms"\nprobes_intensity = 2\n'
    )
    daemon, web = daemon_of(here, environment, '"acme-odd"', tree)
    daemon.wait_ready = lambda: None  # type: ignore[method-assign] # some never are
    daemon.start()
    until("the others work", lambda: _ready(daemon) >= {"process", "host", "database", "executor", "good", "raises"})
    ours = ("store", "healer", "executor", "notifier", "process", "host", "database", "good")
    core = {name: daemon.worker(name) for name in ours}

    def reading(family: str) -> dict[str, Any]:
        found: dict[str, Any] = daemon.cli("probe", f"{family}:one", "--json")[1]
        return found

    said = {family: str(reading(family)) for family in ("good", "raises", "lies", "mute", "leaks")}
    assert "'outcome': 'clear'" in said["good"]
    assert "acme-odd 1.0, probe raises = acme_odd:Raises: RuntimeError: boom" in said["raises"]
    assert "a ProcessData, expected CheckData" in said["lies"]
    assert "findings of nothing, expected one of each: odd" in said["mute"]
    assert "MemoryError" in said["leaks"]
    (here.folder / "odd").touch()
    (row,) = daemon.wait_state("good:one", "escalated")
    assert (row["anomaly_type"], row["escalation_tier"]) == ("good.odd", 3)
    (here.folder / "odd").unlink()
    daemon.wait_state("good:one", "self_resolved")
    daemon.wait_known(web)
    old = web.kill()
    daemon.wait_state("web", "resolved")
    assert web.wait_new(old)
    until("what never gets ready is set aside", lambda: daemon.incidents("worker:wedged"))
    for family in ("hangs", "crashes"):  # what kills its worker twice is not read a third time
        until(f"{family} is told", lambda name=f"reading:{family}:one": daemon.incidents(name))
    assert {name: daemon.worker(name) for name in core} == core
    importers = {line for line in (here.folder / "imported").read_text().splitlines() if line.startswith("healctl: ")}
    assert importers == {f"healctl: {family}" for family in FAMILIES}
    daemon.stop()


def _ready(daemon: Daemon) -> set[str]:
    try:
        children = daemon.ask("tree", deadline_s=1.0)["children"]
    except HealError:  # not up yet; the deadline of whoever waits tells
        return set()
    return {child["name"] for child in children if child["state"] == "ready"}


def test_a_channel_that_is_broken_in_any_way_delays_no_other(here: Site, environment: Environment) -> None:
    environment.put("acme-tell", CHANNELS.format(folder=here.folder), entries("channels", "acme_tell", NAMES))
    tree = '[tree]\nbeat = "200ms"\nbeat_within = "3s"\nabort_grace = "100ms"\nprobes_intensity = 3\n'
    daemon, web = daemon_of(here, environment, '"acme-tell"', tree)
    daemon.more_workers = set(NAMES)
    daemon.start()
    ours = {name: daemon.worker(name) for name in ("healer", "executor", "notifier", "process", "sends")}
    daemon.wait_known(web)
    web.kill()  # critical and healed: tier 3, over every channel
    daemon.wait_state("web", "resolved")
    rows = "SELECT id, channel, state, json_extract(body, '$.receipt'), json_extract(body, '$.last_error') FROM outbox"
    found = until(
        "what is wrong with each",
        lambda: (
            (by := {row[1]: row for row in ledger(daemon, rows)})
            and by["sends"][2] == "delivered"
            and by["throws"][4]
            and by["silent"][4]
            and by["dies"][2] == "quarantined"
            and by
        ),
    )
    assert {row[3] for row in ledger(daemon, rows) if row[1] == "sends"} <= {f"sends:{it}" for it in _sent(here)}
    assert "acme-tell 1.0, channel throws = acme_tell:Throws: RuntimeError: boom" in found["throws"][4]
    assert "it gave '', which is no receipt" in found["silent"][4]
    assert {found[name][2] for name in ("throws", "silent")} == {"pending"}
    assert any("web" in it["subject"] for it in daemon.synapse())
    until("the hang is told", lambda: ledger(daemon, rows) and daemon.incidents("messages:blocks"))
    assert {name: daemon.worker(name) for name in ours} == ours
    daemon.stop()


def _sent(here: Site) -> list[str]:
    return (here.folder / "sent").read_text().split()


RUNBOOK = """\
id = "rb-{kind}"
label = "By a plugin"
applies_to = ["process_dead"]
targets = ["web"]
[[step]]
kind = "{kind}"
timeout = "3s"
"""


def test_a_step_that_is_broken_in_any_way_ends_alone(here: Site, environment: Environment) -> None:
    environment.put("acme-mend", STEPS.format(folder=here.folder), entries("steps", "acme_mend", KINDS))
    folder = here.folder / "runbooks.d"
    folder.mkdir(mode=0o700)
    for kind in KINDS:
        (folder / f"{kind}.toml").write_text(RUNBOOK.format(kind=kind))
        (folder / f"{kind}.toml").chmod(0o600)
    daemon, _ = daemon_of(here, environment, '"acme-mend"', "")
    daemon.start()
    ours = {name: daemon.worker(name) for name in ("healer", "executor", "process")}

    def carry_out(kind: str) -> str:
        told = daemon.ask("execute", 30.0, runbook_id=f"rb-{kind}", target_id="web", confirm=True)
        return str(told)

    who = "acme-mend 1.0, step"
    plan = str(daemon.ask("dry_run", runbook_id="rb-fails", target_id="web"))
    assert f"do as it likes (in the words of {who} fails = acme_mend:Fails)" in plan
    assert f"{who} fails = acme_mend:Fails: RuntimeError: boom" in carry_out("fails")
    assert f"{who} breaks = acme_mend:Breaks: killed by SIGABRT" in carry_out("breaks")
    assert "timed out after 3 s" in carry_out("sleeps")
    pid = int((here.folder / "asleep").read_text())
    assert not [it for it in proc.pids() if (at := proc.stat(it)) is not None and at.live and _session(it) == pid]
    fooled = carry_out("fools")
    assert "all is well" in fooled
    assert "it gave no Outcome, so that nobody knows what it did" in carry_out("empties")
    with pytest.raises(HealError, match=f"{who} stalls = acme_mend:Stalls: its dry run did not end within 4 s"):
        daemon.ask("dry_run", 20.0, runbook_id="rb-stalls", target_id="web")
    assert {name: daemon.worker(name) for name in ours} == ours
    daemon.stop()


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0
