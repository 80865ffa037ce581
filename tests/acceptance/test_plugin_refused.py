"""A plugin that is not as its contract says: `healctl check` names distribution, version, attribute and reason, the
daemon does not start on it, and what is not named in the configuration is never imported (issue 8)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import examining, plugged
from supervisor.errors import ConfigError, HealError
from supervisor.plugins import installed
from tests.lab.daemon import Site, gone, until
from tests.lab.plugged import Environment

pytestmark = pytest.mark.req("R3", "R11", "NFR-001")

GOOD = """\
import os, time
from types import MappingProxyType
import msgspec
from probes.base import Probe, Source, begin
from remediators.base import NoParams, Outcome, Step
from supervisor.incidents.model import Effect
from supervisor.incidents.readings import CheckData, Finding, Severity, Status
from supervisor.messages import StepPlan
from supervisor.notifier.channel import Channel

class Table(msgspec.Struct, forbid_unknown_fields=True):
    limit: int = 3

class Look(Probe):
    api = 1
    family = "look"
    Section = Table
    anomalies = MappingProxyType({"odd": Severity.HIGH})
    def __init__(self, config): pass
    def reconfigure(self, config): pass
    def sources(self): return (Source("look:one", 1000, 1000),)
    async def read(self, target_id, deadline_s):
        return begin(self.sources()[0], "look").tells(CheckData((Finding("odd", Status.CLEAR),)))

class Params(NoParams):
    times: int = 1

class Mend(Step):
    api = 1
    kind = "mend"
    effect = Effect.CHANGE
    Params = Params
    def plan(self, ctx): return StepPlan(self.spec.step_id, "mend it", True)
    async def run(self, ctx): return Outcome("mended")

class Tell(Channel):
    api = 1
    channel = "tell"
    def __init__(self, config): pass
    async def deliver(self, row): return "told"
"""
ENTRIES = """\
[healctl.probes]
look = acme_odd:Look
[healctl.steps]
mend = acme_odd:Mend
[healctl.channels]
tell = acme_odd:Tell
"""
NAMED = '[healctl]\nplugins = ["acme-odd"]\n'
RUNBOOK = 'id = "rb-mend"\nlabel = "Mend"\napplies_to = ["look.odd"]\n[[step]]\nkind = "mend"\n'


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment") / "venv")


Check = Callable[..., str]


@pytest.fixture
def check(environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Reads a configuration with the plugin at hand. `apart`: as `healctl` does, in a process of its own; else what
    runs there is run here, which is as good where the plugin does not end it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # modules of one name and one second
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def look(code: str, entries: str = ENTRIES, text: str = NAMED, runbook: str = "", *, apart: bool = False) -> str:
        environment.put("acme-odd", code, entries)
        folder = tmp_path / "runbooks.d"
        folder.mkdir(mode=0o700, exist_ok=True)
        if runbook:
            (folder / "mend.toml").write_text(runbook)
            (folder / "mend.toml").chmod(0o600)
        file = tmp_path / "healctl.toml"
        try:
            if apart:
                monkeypatch.setattr(sys, "executable", str(environment.python))
                found = examining.examine(text, file)
            else:
                monkeypatch.syspath_prepend(environment.packages)
                monkeypatch.delitem(sys.modules, "acme_odd", raising=False)
                with open(os.devnull, "wb") as answer:
                    found = plugged.accept(examining.Job(text, str(file), 9), answer.fileno())
        except ConfigError as error:
            return str(error).replace(str(tmp_path), "")
        finally:
            sys.modules.pop("acme_odd", None)
        return f"ok: {', '.join(it.name for it in found.pieces)}; {', '.join(it.id for it in found.runbooks)}"

    return look


WHO = "acme-odd 1.0, probe look = acme_odd:Look"
BAD = {
    "raises": ('raise RuntimeError("boom")', f"{WHO}: RuntimeError: boom"),
    "no text": ('raise RuntimeError("\\x1b[2J\\udcff")', f"{WHO}: RuntimeError: \\x1b[2J\\udcff"),
    "exits": ("raise SystemExit(3)", f"{WHO}: SystemExit: 3"),
    "no attribute": ("Tell = Mend = None", f"{WHO}: AttributeError: module 'acme_odd' has no attribute 'Look'"),
    "no probe": (GOOD.replace("class Look(Probe)", "class Look"), f"{WHO}: it is no subclass of probes.base.Probe"),
    "api": (
        GOOD.replace("    api = 1\n    family", "    api = 2\n    family"),
        "it says api = 2, this healctl speaks 1",
    ),
    "no api": (GOOD.replace("    api = 1\n    family", "    family"), "it says api = None, this healctl speaks 1"),
    "abstract": (GOOD.replace("async def read", "async def raed"), f"{WHO}: it does not implement read"),
    "name": (GOOD.replace('family = "look"', 'family = "lock"'), f"{WHO}: its family is 'lock', expected 'look'"),
    "section": (GOOD.replace("Section = Table", "Section = dict"), "its Section is <class 'dict'>, expected a msgspec"),
    "no anomalies": (GOOD.replace('{"odd": Severity.HIGH}', "{}"), "it declares no anomalies"),
    "anomaly": (GOOD.replace('"odd": Sev', '"Odd one": Sev'), "the anomaly 'Odd one' is no name"),
    "effect": (GOOD.replace("effect = Effect.CHANGE", 'effect = "mild"'), "its effect is 'mild', expected an Effect"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_piece_that_breaks_its_contract_is_named_with_the_reason(check: Check, what: str) -> None:
    code, said = BAD[what]
    told = check(code)
    assert "/healctl.toml:2: key healctl.plugins: " in told
    assert said in told


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (ENTRIES.replace("look =", "process ="), "process = acme_odd:Look: that name is healctl's own"),
        (ENTRIES.replace("mend =", "run-command ="), "that is a kind of step of healctl's own"),
        (ENTRIES.replace("tell =", "look ="), "that name is taken already (acme-odd 1.0, probe look"),
        (ENTRIES.replace("look =", "Look_1 ="), "expected a name of a-z, 0-9 and '-'"),
        (ENTRIES.replace("acme_odd:Look", "acme_odd"), 'look = acme_odd: expected "module:Class"'),
        (ENTRIES.replace("healctl.probes", "healctl.probe"), 'no such group, did you mean "healctl.probes"?'),
        ("[console_scripts]\nx = acme_odd:x\n", "acme-odd 1.0 has nothing for healctl"),
    ],
)
def test_an_entry_point_that_cannot_be_is_named(check: Check, entries: str, said: str) -> None:
    assert said in check(GOOD, entries)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NAMED.replace("odd", "ood"), 'no distribution "acme-ood" is installed here'),
        (NAMED + "[plugin.look]\nlimit = 1\nmore = 2\n", ":5: key plugin.look.more: unknown key"),
        (NAMED + '[plugin.look]\nlimit = "1"\n', ':4: key plugin.look.limit: found "1", expected a whole number'),
        (NAMED + "[plugin.loook]\n", "key plugin.loook: no plugin that is named brings it"),
        (NAMED + "[notify.channel.look]\n", "key notify.channel.look: no plugin that is named brings such a channel"),
        (NAMED + "[notify.channel.tell]\nfrom_tier = 0\n", "key notify.channel.tell.from_tier: found 0"),
    ],
)
def test_its_table_is_checked_like_any_other(check: Check, text: str, said: str) -> None:
    assert said in check(GOOD, text=text)


@pytest.mark.parametrize(
    ("runbook", "said"),
    [
        (RUNBOOK.replace("look.odd", "look.ood"), 'no plugin finds "look.ood"'),
        (RUNBOOK + 'effect = "observe"\n', "declares observe, a plugin is at least change"),
        (RUNBOOK + "params = { times = true }\n", "Expected `int`, got `bool`"),
        (RUNBOOK + "params = { more = 1 }\n", "unknown field `more`"),
        (RUNBOOK.replace('kind = "mend"', 'kind = "plugin"'), "plugin is what every step of a plugin is"),
        (RUNBOOK.replace('kind = "mend"', 'kind = "mned"'), 'no such kind "mned"'),
    ],
)
def test_a_runbook_says_no_less_of_its_step_than_the_step_itself(check: Check, runbook: str, said: str) -> None:
    assert said in check(GOOD, runbook=runbook)


def test_its_step_is_never_on_the_whitelist(check: Check) -> None:
    text = NAMED + '[policy]\nauto_execute = ["rb-mend"]\n'
    assert "a plugin's step never runs by the whitelist" in check(GOOD, text=text, runbook=RUNBOOK)


def test_a_good_one_is_good_and_prints_what_it_likes(check: Check) -> None:
    assert check("print('hello' * 100_000)\n" + GOOD, runbook=RUNBOOK, apart=True) == "ok: look, mend, tell; rb-mend"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os._exit(3)", "ended the process (exit 3)"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt: "),
        (
            "class Bad(BaseException):\n def __str__(self): raise KeyError\nraise Bad",
            "raised Bad: (its text cannot be had: KeyError)",
        ),
        (
            GOOD
            + "class M(type(Look)):\n anomalies = property(lambda cls: 1 / 0)\nclass Look(Look, metaclass=M): pass\n",
            "raised ZeroDivisionError: division by zero",
        ),
        ("import os; os.abort()", "killed the process by SIGABRT"),
        ("import time; time.sleep(60)", "did not end within 4 s"),
    ],
)
def test_an_import_that_hangs_or_ends_its_process_is_named(
    check: Check, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    if "sleep" in code:
        monkeypatch.setattr(examining, "WITHIN_S", 4)
    assert f"{WHO}: importing and checking it {said}" in check(code, apart=True)


def test_what_is_not_named_is_never_imported_and_a_bad_one_keeps_the_daemon_from_starting(
    here: Site, environment: Environment
) -> None:
    mark = here.folder / "imported"
    environment.put("acme-odd", f"open({str(mark)!r}, 'w').close()\n{GOOD}", ENTRIES)
    daemon = here.daemon("")
    daemon.program = [str(environment.healctl)]
    _, told = daemon.cli("doctor", "--json")
    assert any(it["says"] == "acme-odd is installed and not named: nothing of it runs" for it in told["findings"])
    assert daemon.cli("check", "--live", "--json")[0] == 0
    daemon.start()
    daemon.stop()
    assert not mark.exists()
    environment.put("acme-odd", f"open({str(mark)!r}, 'w').close()\nraise RuntimeError('boom')", ENTRIES)
    text = daemon.config_file.read_text().replace("[healctl]", NAMED.strip())
    daemon.config_file.write_text(text)
    argv = [str(environment.healctl), "-c", str(daemon.config_file), "start"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert f"{WHO}: RuntimeError: boom" in done.stderr
    assert mark.exists()
    assert installed() == []  # here, where the tests themselves run


def test_a_reload_takes_one_in_another_version_of_it_and_lets_it_go(here: Site, environment: Environment) -> None:
    environment.put("acme-odd", GOOD, ENTRIES)
    daemon = here.daemon("")
    daemon.program = [str(environment.healctl)]
    daemon.start()
    host, plain = daemon.worker("host"), daemon.config_file.read_text()
    folder = here.folder / "runbooks.d"
    folder.mkdir(mode=0o700)
    (folder / "mend.toml").write_text(RUNBOOK)
    (folder / "mend.toml").chmod(0o600)
    daemon.config_file.write_text(plain.replace("[healctl]", NAMED.strip()))
    code, told = daemon.cli("reload", "--json")
    assert (code, set(told["changes"])) == (
        0,
        {"healctl changed", "piece.look added", "piece.mend added", "piece.tell added", "runbook.rb-mend added"},
    )
    old = {name: daemon.worker(name) for name in ("look", "tell")}
    assert daemon.ask("approve", runbook_id="rb-mend")["mode"] == "auto_execute"
    (environment.packages / "acme_odd-1.0.dist-info").rename(environment.packages / "acme_odd-1.1.dist-info")
    environment.put("acme-odd", GOOD, ENTRIES, "1.1")
    with pytest.raises(HealError, match=r"acme-odd 1\.0, step mend = acme_odd:Mend: 1\.1 is installed now"):
        daemon.ask("dry_run", runbook_id="rb-mend", target_id="look:one")
    code, told = daemon.cli("reload", "--json")
    assert (code, set(told["changes"])) == (
        0,
        {"piece.look changed", "piece.mend changed", "piece.tell changed", "runbook.rb-mend changed"},
    )
    for ref in old.values():
        gone(ref)
    assert daemon.worker("look") not in old.values()
    (book,) = [it for it in daemon.ask("list_runbooks")["runbooks"] if it["id"] == "rb-mend"]
    assert book["mode"] == "dry_run"  # what was approved is another text
    (folder / "mend.toml").unlink()
    daemon.config_file.write_text(plain)
    assert daemon.cli("reload", "--json")[0] == 0
    until("its workers are gone", lambda: not {"look", "tell"} & set(daemon.workers()))
    assert daemon.worker("host") == host
    daemon.stop()
