"""The units as they are made, for every configuration (etc/systemd) and for one; what a sandbox may take away."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from supervisor import config
from supervisor.errors import UsageError
from supervisor.install import fitting, sandbox, unit
from supervisor.install.scope import others_who_may_change, scope

pytestmark = pytest.mark.req("NFR-002", "R11")
ROOT = Path(__file__).parents[2]
WATCHES = '[process.web]\nmatch = "web"\nrestart = { systemd = "web.service" }\n'


def made(text: str, *, user: bool = False, mounts: tuple[str, ...] = (), **env: str) -> str:
    """The service for this configuration."""
    loaded = config.parse(f'[healctl]\nstate_dir = "/srv/state"\nruntime_dir = "/run/h"\n{text}', "test")
    place = scope({}, user=user)
    units, _ = fitting.units(loaded, Path("/etc/h.toml"), Path("/opt/healctl"), place, {"PATH": "/bin", **env}, mounts)
    return units[1].text


def directives(text: str) -> list[str]:
    return re.findall(r"^([A-Z]\w+=.*)$", text, re.MULTILINE)


@pytest.mark.parametrize(("name", "text"), [(unit.SERVICE, unit.service()), (unit.FAILURE, unit.failure())])
def test_the_shipped_units_are_what_is_made_where_no_configuration_is_known(name: str, text: str) -> None:
    file = ROOT / "etc/systemd" / name
    if os.environ.get("HEALCTL_GOLDEN") == "write":
        file.write_text(text)
    assert file.read_text() == text, "read the difference, then HEALCTL_GOLDEN=write"


def test_what_is_fitted_is_the_shipped_unit_and_more() -> None:
    shipped = [line for line in directives(unit.service()) if not line.startswith("Exec")]
    assert [line for line in directives(made(WATCHES)) if line in shipped] == shipped


@pytest.mark.parametrize(
    ("file", "word"),
    [
        ("/etc/h.toml", "/etc/h.toml"),
        ("/a b/50%.toml", '"/a b/50%%.toml"'),
        ("/$HOME/%n", '"/$$HOME/%%n"'),
        ('/it\'s "q"', '"/it\'s \\"q\\""'),
        ("/back\\slash;#", '"/back\\\\slash;#"'),
        ("/grün", '"/grün"'),
    ],
)
def test_a_path_is_written_so_that_systemd_reads_it_as_it_is(file: str, word: str) -> None:
    text = unit.service(("/opt/my $tools%/healctl", "-c", file))
    assert f'ExecStart="/opt/my $tools%%/healctl" -c {word} start\n' in text, "no variable in a program's own path"
    assert f'ExecStopPost=-"/opt/my $tools%%/healctl" -c {word} page --unit %n --restarted\n' in text


@pytest.mark.parametrize("word", ["/a\nExecStart=/bin/evil", "/a\x1b", "/a\udcff"])
def test_what_would_begin_another_line_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="cannot stand in a unit"):
        unit.service(("/opt/healctl", "-c", word))
    fitted = unit.Fitted("a user", "/etc/h.toml", word, ())
    assert directives(unit.service(fitted=fitted)) == directives(unit.service())


@pytest.mark.parametrize("program", ['/opt/"q"/healctl', "/opt/it's/healctl", "/opt/a\\b/healctl"])
def test_a_program_that_systemd_would_not_run_is_refused(program: str) -> None:
    with pytest.raises(UsageError, match="quote or a backslash"):
        unit.service((program,))


STARTS = {
    "[process.web] restart": '[process.web]\nmatch = "web"\nrestart = { argv = ["/bin/web"] }\n',
    "[process.app] restart": '[process.app]\nmatch = "app"\nrestart = { pm2 = "app" }\n',
    "[gateway.g] status": '[gateway.g]\nstatus = ["/bin/g", "status"]\n',
    "[pipeline.p] stage_done": '[pipeline.p]\nstate_file = "/srv/p.json"\nstage_done = ["/bin/done"]\n',
    "[command.c]": '[command.c]\nargv = ["/bin/c"]\neffect = "observe"\n',
    "[notify.signal] transports": (
        '[notify.signal]\ntransports = ["signal-cli"]\naccount = "+15550100"\nrecipient = "+15550101"\n'
    ),
}  # fmt: skip
SANDBOX = re.compile(
    r"^(NoNewPrivileges|Protect|Restrict|Lock|Private|System|ReadWrite|ReadOnly|Inaccessible)\w*=", re.M
)


@pytest.mark.parametrize(("table", "text"), STARTS.items())
@pytest.mark.parametrize("user", [True, False])
def test_what_healctl_starts_would_inherit_the_sandbox_so_there_is_none(table: str, text: str, user: bool) -> None:
    service = made(text, user=user)
    found = {it[1] for it in SANDBOX.finditer(service)} - {"Restart"}
    assert found == set()
    assert f"# No sandbox: healctl starts programs of yours ({table}" in service


def test_a_configuration_that_starts_nothing_gets_one_and_each_directive_its_reason() -> None:
    for user in (True, False):
        lines = made(WATCHES, user=user).split("PrivateDevices= (disks).\n")[1].split("\n\n[Install]")[0].splitlines()
        assert lines[0].startswith("#")
        assert "NoNewPrivileges=yes" in lines
        assert ("ProtectSystem=full" in lines) is not user, "a user's systemd cannot mount"
    hides = (
        "PrivateTmp=",
        "ProtectProc=",
        "ProtectHome=",
        "PrivateDevices=",
        "PrivateNetwork=",
        "ProtectSystem=strict",
    )
    assert [line for line in directives(made(WATCHES)) if line.startswith(hides)] == []


def test_what_it_writes_in_the_systems_places_stays_writable() -> None:
    text = (
        f'{WATCHES}[logs.one]\npaths = ["/usr/local/var/my log/*/x.log", "/var/log/*"]\n'
        '[database.d]\npath = "/etc/app/d.db"\n'
        '[cleanup]\npycache_dirs = ["/usr/local/src/app"]\n'
    )
    service = made(text, mounts=("/", "/boot", "/boot/efi", "/srv", "/usr/local/src/app"))
    writable = [line for line in directives(service) if line.startswith("ReadWritePaths=")]
    assert writable == [
        'ReadWritePaths=-/etc/app -/usr/local/src/app "-/usr/local/var/my log"',
        "ReadWritePaths=-/boot -/boot/efi",
    ], "a file system that looks read-only is passed over by the watch for full disks"
    everywhere = made(f'{WATCHES}[logs.one]\npaths = ["/*/log"]\n')
    assert "ReadWritePaths=-/boot -/efi -/etc -/usr\n" in everywhere
    assert "ReadWritePaths=" not in made(WATCHES, mounts=("/", "/srv"))


def test_a_link_into_the_systems_places_is_followed(tmp_path: Path) -> None:
    (tmp_path / "logs").symlink_to("/usr/local/var")
    assert "ReadWritePaths=-/usr/local/var\n" in made(f'{WATCHES}[logs.one]\npaths = ["{tmp_path}/logs/*"]\n')


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_programs_that_systemd_would_not_find_are_found_and_what_is_nowhere_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "50% node"
    folder.mkdir()
    (folder / "pm2").write_text("#!/bin/sh\n")
    (folder / "pm2").chmod(0o755)
    text = STARTS["[process.app] restart"] + STARTS["[notify.signal] transports"]
    service = made(text, PATH=f"{folder}:/bin")
    assert f'Environment="PATH={":".join(sandbox.UNIT_PATH)}:{tmp_path}/50%% node"\n' in service
    loaded = config.parse(text, "test")
    os.chown(folder, 1000, -1)
    units_of = fitting.units(loaded, Path("/h"), Path("/h"), scope({}, user=False), {"PATH": f"{folder}:/bin"}, ())
    assert any(note.startswith(f"user 1000 owns {folder}") for note in units_of[1]), "root would run what is in there"
    assert sandbox.search_path(loaded, str(folder)) == ([str(folder)], ["[notify.signal] transports: signal-cli"])
    assert "Environment=" not in made(STARTS["[gateway.g] status"])


def test_a_users_state_stays_where_it_was() -> None:
    loaded, place = config.parse("", "test"), scope({"XDG_CONFIG_HOME": "/x"}, user=True)
    units, _ = fitting.units(loaded, Path("/h.toml"), Path("/healctl"), place, {"XDG_STATE_HOME": "/s"}, ())
    assert all("Environment=XDG_STATE_HOME=/s\n" in it.text for it in units), "the page looks into it, too"
    assert [it.path for it in units] == [Path("/x/systemd/user", name) for name in (unit.FAILURE, unit.SERVICE)]
    assert "XDG_STATE_HOME" not in made("", user=True, XDG_STATE_HOME="/s"), "it is configured"


def test_an_installed_unit_says_where_everything_is() -> None:
    service = made(WATCHES)
    assert unit.told(service, unit.CONFIGURATION) == "/etc/h.toml"
    assert unit.told(service, unit.STATE) == "/srv/state"
    assert unit.told(unit.service(), unit.STATE) == ""


def test_whoever_could_change_what_root_runs_is_named(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root's own files can be safe")
    program = tmp_path / "bin/healctl"
    program.parent.mkdir()
    program.write_text("")
    assert list(others_who_may_change(Path("/bin/sh"))) == []
    ours = [it for it in others_who_may_change(program) if str(tmp_path) in it]
    program.parent.chmod(0o757)
    assert [it for it in others_who_may_change(program) if it not in ours] == [f"{program.parent} has mode 0757"]
    program.parent.chmod(0o1777)
    os.chown(program, 1000, 0)
    assert [it for it in others_who_may_change(program) if it not in ours] == [f"user 1000 owns {program}"]
