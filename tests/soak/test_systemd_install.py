"""`healctl install` on a machine that boots a real systemd: of the system and of a user, from nothing to nothing left.

What is installed is what is started: the sandbox, the watchdog, the restarts, the last page are systemd's own.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.install.files import KEPT
from supervisor.install.unit import SERVICE
from tests.lab.container import Container, booted
from tests.lab.daemon import HEALCTL, ROOT, TOY, until

pytestmark = pytest.mark.soak
HOME = "/srv/healctl-soak"
# All that systemd, a shell and TOML have a meaning for.
CONFIG = f'{HOME}/50% off $HOME ${{HOME}} %n "it\'s" \\x; #.toml'
UNITS = "/etc/systemd/system"
# Where an installation could leave something; the journal and systemd's own caches are not ours.
PLACES = ("etc", "usr", "opt", "srv", "root", "var/lib", "home")


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    with booted(tmp_path) as made:
        made.run("ip", "link", "set", "lo", "up")
        made.run("mkdir", "-p", HOME)
        yield made


def sh(container: Container, script: str) -> str:
    """A script of the test's own, with the exit code as its last line."""
    return container.run("bash", "-c", script + "\necho $?").strip()


def healctl(container: Container, *words: str, config: str = CONFIG) -> tuple[int, Any]:
    """(exit code, what it answered)."""
    command = shlex.join([str(HEALCTL), *words, "-c", config, "--json"])
    *said, code = sh(container, f"{command} 2>{HOME}/stderr").splitlines()
    return int(code), json.loads("\n".join(said)) if said else container.read(f"{HOME}/stderr")


def show(container: Container, key: str) -> str:
    return container.run("systemctl", "show", "-p", key, "--value", SERVICE).strip()


def active(container: Container) -> str:
    until("active", lambda: show(container, "ActiveState") == "active", 60)
    return show(container, "MainPID")


def listing(upper: Path) -> set[str]:
    """What the container has written: its layer of the overlay."""
    every = (path for place in PLACES for path in (upper / place).rglob("*") if "__pycache__" not in path.parts)
    return {f"/{path.relative_to(upper)}" for path in every if path.is_symlink() or path.is_file()}


def sent(container: Container) -> list[str]:
    return [json.loads(line)["text"] for line in container.read(f"{HOME}/sent").splitlines() if line.startswith("{")]


def prepare(container: Container) -> None:
    """A phone, a service with its pid file in /tmp, a log and a database below /usr; a watchdog that is quick."""
    double = [sys.executable, "-m", "tests.doubles.signal_double", "--port", "8080", "--log", f"{HOME}/sent"]
    container.run("systemd-run", "--unit=phone", f"--working-directory={ROOT}", *double)
    until("the phone", lambda: ":1F90 " in container.read("/proc/net/tcp"))  # 8080
    toy = [sys.executable, str(TOY), "--pid-file", "/tmp/toy.pid", "--starts", f"{HOME}/starts"]
    container.run("systemd-run", "--unit=toy", *toy)
    until("the service", lambda: container.read("/tmp/toy.pid").strip().isdigit())
    put = "printf '[Service]\\nExecStart=/bin/sleep 1000077\\nUser=nobody\\n' >/run/systemd/system/web.service"
    assert sh(container, f"{put}; systemctl daemon-reload; systemctl start web") == "0"
    config = (
        f'[healctl]\nstate_dir = "{HOME}/state"\nruntime_dir = "{HOME}/run"\n'
        '[tree]\nbeat = "200ms"\nbeat_within = "10m"\n'  # the tree's own ladder is slow: systemd's watchdog must act
        '[process.toy]\npid_file = "/tmp/toy.pid"\ninterval = "2s"\n'
        '[process.web]\nmatch = "sleep 1000077"\nauto_restart = true\nrestart = { systemd = "web.service" }\n'
        '[logs.there]\npaths = ["/usr/local/var/heal log/*.log", "/var/log/*"]\n'
        '[database.data]\npath = "/usr/local/var/there.db"\n'
        '[notify.signal]\ntransports = ["http://127.0.0.1:8080"]\naccount = "+15550100"\nrecipient = "+15550101"\n'
    )
    make = "import sqlite3; c = sqlite3.connect('/usr/local/var/there.db'); c.execute('PRAGMA journal_mode=WAL');"
    make += " c.execute('CREATE TABLE t (a)'); c.commit()"
    script = f"""mkdir -p '/usr/local/var/heal log' {UNITS}/{SERVICE}.d
cat >{shlex.quote(CONFIG)} <<'END'\n{config}\nEND
printf '[Service]\\nWatchdogSec=6\\nRestartSec=100ms\\n' >{UNITS}/{SERVICE}.d/quick.conf
{sys.executable} -c {shlex.quote(make)}"""
    assert sh(container, script) == "0"


def looks(container: Container, *prefix: str) -> dict[str, str]:
    """What `check --live` sees of every target: its outcome."""
    command = shlex.join([*prefix, str(HEALCTL), "check", "--live", "-c", CONFIG, "--json"])
    *said, _ = sh(container, f"{command} 2>/dev/null").splitlines()
    return {it["target_id"]: it["outcome"] for it in json.loads("\n".join(said))["targets"]}


def install_for_the_first_time(container: Container) -> str:
    """Returns the main process."""
    code, planned = healctl(container, "install", "--dry-run")
    assert code == 0, planned
    assert planned["unit"]["active"] is False
    assert container.read(f"{UNITS}/{SERVICE}").endswith("No such file or directory\n")
    sh(container, shlex.join([str(HEALCTL), "start", "--detach", "-c", CONFIG]))
    code, refused = healctl(container, "install")
    assert (code, refused["code"]) == (1, "refused")
    assert "but not as this unit: nothing was changed" in refused["error"]
    assert "has stopped" in container.run(str(HEALCTL), "stop", "-c", CONFIG)
    code, done = healctl(container, "install", "--system")
    assert code == 0, done
    assert done["ran"] == planned["ran"] == [
        f"systemctl {it}" for it in ("daemon-reload", f"enable {SERVICE}", f"start {SERVICE}")
    ]  # fmt: skip
    assert done["unit"] == {"active": True, "enabled": True}
    main = active(container)
    words = container.run("systemctl", "show", "-p", "ExecStart", SERVICE)
    assert f"argv[]={HEALCTL} -c {CONFIG.replace('$', '$$')} start ;" in words  # shown before variables are expanded
    assert container.run("systemd-analyze", "verify", f"{UNITS}/{SERVICE}").count("healctl") == 0
    assert_that_shells_and_man_find_what_is_there(container)
    code, status = healctl(container, "status")
    assert code == 0
    assert {it["state"] for it in status["children"]} == {"ready"}
    return main


def assert_that_shells_and_man_find_what_is_there(container: Container) -> None:
    """Where the distribution's own settings make them look."""
    path = f"PATH={HEALCTL.parent}:/usr/bin:/bin"
    ask = {
        "fish": (["fish", "-c", "complete -C 'healctl heal dis'"], "dismiss"),
        "zsh": (["zsh", "-c", "autoload compinit; compinit -D -u; echo $_comps[healctl]"], "_healctl"),
        "man": (["man", "-w", "healctl-heal-approve"], "/usr/local/share/man/man1/healctl-heal-approve.1"),
    }
    for program, (argv, said) in ask.items():
        if container.run("which", program).strip():
            assert said in container.run("env", path, *argv), program


def assert_that_the_sandbox_hides_nothing(container: Container, main: str) -> None:
    assert "NoNewPrivs:\t1" in container.read(f"/proc/{main}/status")
    inside = ("nsenter", "-t", main, "-m", "--")
    assert "Read-only file system" in container.run(*inside, "touch", "/usr/local/bin/x")
    for path in ("/usr/local/var/heal log/x", "/usr/local/var/x", "/tmp/x", "/var/log/x", f"{HOME}/x"):
        assert container.run(*inside, "touch", path) == "", path
        container.run("rm", path)
    seen = looks(container)
    assert looks(container, *inside) == seen
    assert seen["toy"] == "clear"
    assert {"there", "data", "system-memory"} < set(seen)
    workers = container.run("pgrep", "-P", main).split()
    assert any("/proc/pressure/memory" in container.run("ls", "-l", f"/proc/{pid}/fd") for pid in workers)
    old = container.run("systemctl", "show", "-p", "MainPID", "--value", "web").strip()
    container.run("kill", "-9", old)
    until("it is healed", lambda: container.run("systemctl", "is-active", "web").strip() == "active")
    until("it is proved", lambda: "web" not in {it["target_id"] for it in opened(container)})
    assert container.run("systemctl", "show", "-p", "MainPID", "--value", "web").strip() not in ("0", old)


def journal(container: Container, *words: str) -> list[dict[str, str]]:
    """What healctl itself has said, of the unit: systemd's own words about it are not."""
    told = container.run("journalctl", "--unit", SERVICE, "--output=json", "--no-pager", "--quiet", *words)
    return [it for it in map(json.loads, told.splitlines()) if it["_COMM"] != "systemd"]


def assert_that_the_journal_tells_apart_and_finds_by_id(container: Container, main: str, incident_id: str) -> None:
    """With `log_format = "auto"`: each line has the priority of its level (sd-daemon(3)) and says its incident."""
    container.run("kill", "-9", container.run("pgrep", "-P", main, "-f", "^healctl: logs").strip())
    (ended,) = until("its end", lambda: [it for it in journal(container, "-p", "err") if "[logs] pid" in it["MESSAGE"]])
    assert (ended["PRIORITY"], ended["MESSAGE"].split(": ")[1]) == ("3", "killed by SIGKILL")
    warned = [it["MESSAGE"] for it in journal(container, "-p", "warning")]
    assert any("[root] WatchdogSec=6 is less than" in it for it in warned)
    assert not any(it.endswith("ready") for it in warned)
    course = [it["MESSAGE"] for it in journal(container, "--grep", f"incident={incident_id} ")]
    assert [it.split(" toy is ")[1].split()[0] for it in course][:3] == ["detected", "diagnosing", "escalated"]
    assert not any(it["MESSAGE"].startswith("<") for it in journal(container))


def opened(container: Container) -> list[dict[str, Any]]:
    """Every open incident; none while nobody answers."""
    code, answer = healctl(container, "heal", "status")
    return list(answer["open_incidents"]) if code == 0 else []


def incident(container: Container) -> str:
    """The id of the one about the service."""
    return next((it["id"] for it in opened(container) if it["target_id"] == "toy"), "")


@pytest.mark.req("NFR-002", "FR-005", "FR-007")
def test_a_unit_of_the_system_from_nothing_to_nothing_left(container: Container, tmp_path: Path) -> None:
    prepare(container)
    before = listing(tmp_path / "upper")
    first = install_for_the_first_time(container)
    assert_that_the_sandbox_hides_nothing(container, first)

    container.run("kill", "-9", container.read("/tmp/toy.pid").strip())
    open_id = until("the incident", lambda: incident(container))
    assert_that_the_journal_tells_apart_and_finds_by_id(container, first, open_id)

    # It hangs: the watchdog ends it, systemd starts it again, and what was open is open.
    healer = container.run("pgrep", "-P", first, "-f", "^healctl: healer").strip()
    container.run("kill", "-STOP", healer)
    until("another daemon", lambda: show(container, "MainPID") not in ("0", first), 60)
    second = active(container)
    assert show(container, "NRestarts") == "1"
    assert until("what was open", lambda: incident(container)) == open_id
    until("the page about the watchdog", lambda: any("no round within WatchdogSec" in it for it in sent(container)))

    # A second time: nothing to do, and nothing is done.
    code, again = healctl(container, "install")
    assert code == 0
    assert (again["ran"], again["kept"], {it["change"] for it in again["files"]}) == ([], [], {"same"})
    assert active(container) == second

    # Somebody changed the unit: refused, unless told to; what was there is kept.
    sh(container, f"sed -i s/^RestartSec=.*/RestartSec=9/ {UNITS}/{SERVICE}")
    code, refused = healctl(container, "install")
    assert (code, refused["code"]) == (1, "refused")
    assert "RestartSec=9" in container.read(f"{UNITS}/{SERVICE}")
    code, forced = healctl(container, "install", "--force")
    assert code == 0
    assert forced["kept"] == [f"{UNITS}/{SERVICE}{KEPT}"]
    assert forced["ran"][-1] == f"systemctl restart {SERVICE}"
    third = active(container)
    assert third != second
    assert until("what was open", lambda: incident(container)) == open_id
    container.run("rm", forced["kept"][0])

    # Somebody takes its place when it is killed: it fails at each start, is given up, and the last page goes out.
    container.run("systemd-run", "--unit=squatter", "flock", f"{HOME}/run/healctl.lock", "sleep", "600")
    until("the squatter waits", lambda: "-> FLOCK" in container.read("/proc/locks"))
    container.run("kill", "-9", third)
    until("failed for good", lambda: show(container, "ActiveState") == "failed", 120)
    refused_start = [it for it in journal(container, "-p", "err") if "is already running" in it["MESSAGE"]]
    assert {it["PRIORITY"] for it in refused_start} == {"3"}, "why it does not start is an error, too"
    (last,) = until("the last page", lambda: [text for text in sent(container) if "healctl is down" in text], 60)
    assert "failed (exit 1; after" in last
    code, failed = healctl(container, "install")
    assert (code, failed["code"]) == (1, "failed")
    assert "journalctl -u healctl" in failed["hint"]
    container.run("systemctl", "stop", "squatter")
    code, back = healctl(container, "install")
    assert code == 0
    assert back["unit"] == {"active": True, "enabled": True}, "systemd may have tried once more by itself"
    assert until("what was open", lambda: incident(container)) == open_id

    code, gone = healctl(container, "uninstall")
    assert code == 0
    assert f"the state stays: {HOME}/state" in gone["notes"]
    assert f"the configuration stays: {CONFIG}" in gone["notes"]
    assert show(container, "LoadState") == "not-found" or show(container, "FragmentPath") == ""
    assert container.run("pgrep", "-f", "^healctl:") == ""
    left = {
        path for path in listing(tmp_path / "upper") - before if not path.startswith((f"{HOME}/state/", f"{HOME}/run/"))
    }
    assert left - {f"{HOME}/stderr", f"{HOME}/starts", f"{HOME}/sent"} == set()
    code, nothing = healctl(container, "uninstall")
    assert (code, nothing["files"], nothing["ran"]) == (0, [], [])


@pytest.mark.req("NFR-002", "FR-007")
def test_a_unit_of_a_user_lives_in_their_own_systemd_and_says_what_linger_is_for(container: Container) -> None:
    for unit in ("dbus.socket", "dbus.service", "systemd-logind.service"):
        container.run("systemctl", "start", unit)
    assert container.run("useradd", "--create-home", "--shell", "/bin/bash", "anna") == ""
    uid = container.run("id", "-u", "anna").strip()
    for place in (ROOT, Path(sys.base_prefix)):  # in this container alone, which is an overlay
        container.run("chmod", "o+x", *map(str, (place, *place.parents)))
    config = "/home/" + "anna/.config/healctl/healctl.toml"
    home = Path(config).parents[2]

    def anna(*words: str, **environment: str) -> tuple[int, Any]:
        variables = [f"{name}={value}" for name, value in {"HOME": str(home), **environment}.items()]
        command = ["runuser", "-u", "anna", "--", "env", "-u", "XDG_RUNTIME_DIR", *variables, str(HEALCTL), *words]
        *said, code = sh(container, f"cd / && {shlex.join([*command, '--json'])} 2>/dev/null").splitlines()
        return int(code), json.loads("\n".join(said))

    code, none = anna("install")
    assert (code, none["code"]) == (78, "bad_configuration")
    assert "healctl init" in none["hint"]
    put = f"mkdir -p {Path(config).parent} && printf '[disk]\\nmounts = [\"/\"]\\n' >{config}"
    assert sh(container, f"runuser -u anna -- bash -c {shlex.quote(put)}") == "0"
    code, refused = anna("install", "--system")
    assert (code, refused["code"]) == (1, "refused")
    assert refused["hint"].startswith(f"sudo {HEALCTL} install --system")
    code, refused = anna("install")
    assert (code, refused["code"]) == (1, "refused")
    assert f"XDG_RUNTIME_DIR=/run/user/{uid}" in refused["hint"]
    assert "No such file" in container.run("ls", f"{home}/.config/systemd/user")

    container.run("systemctl", "start", f"user@{uid}.service")  # as a login does
    session = {"XDG_RUNTIME_DIR": f"/run/user/{uid}"}
    code, done = anna("install", **session)
    assert code == 0, done
    assert done["unit"] == {"active": True, "enabled": True}
    (linger,) = [it for it in done["notes"] if "loginctl enable-linger anna" in it]
    assert "ends with the last logout" in linger
    code, status = anna("status", **session)
    assert {it["state"] for it in status["children"]} == {"ready"}
    (main,) = container.run("pgrep", "-u", "anna", "-f", "^healctl: root").split()
    assert "NoNewPrivs:\t1" in container.read(f"/proc/{main}/status")
    container.run("kill", "-9", main)
    until("another", lambda: container.run("pgrep", "-u", "anna", "-f", "^healctl: root").split() not in ([], [main]))

    container.run("loginctl", "enable-linger", "anna")
    code, again = anna("install", **session)
    assert (code, again["ran"]) == (0, [])
    assert not any("linger" in it for it in again["notes"])
    # What linger is for: the machine boots (logind starts, and knows of no login), and it runs.
    container.run("systemctl", "stop", "systemd-logind.service", f"user@{uid}.service")
    assert container.run("pgrep", "-u", "anna") == ""
    container.run("rm", "-f", f"/run/systemd/users/{uid}")
    container.run("systemctl", "start", "systemd-logind.service")
    until("it runs again", lambda: container.run("pgrep", "-u", "anna", "-f", "^healctl: root"), 60)

    code, gone = anna("uninstall", **session)
    assert code == 0, gone
    assert container.run("pgrep", "-u", "anna", "-f", "^healctl:") == ""
    left = container.run("find", str(home / ".config"), str(home / ".local"), "-type", "f,l").split()
    assert [path for path in left if "/state/healctl/" not in path] == [config]
