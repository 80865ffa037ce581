"""`healctl install` and `uninstall` as they are run: on a real user's systemd, and where something is in their way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from supervisor.install.files import KEPT
from supervisor.install.unit import FAILURE, SERVICE
from tests.lab import systemd
from tests.lab.daemon import site

pytestmark = pytest.mark.req("NFR-002", "FR-007")
HEALCTL = Path(sys.executable).with_name("healctl")
CONFIG = "[disk]\nmounts = []\ndiscover = false\n[logs]\n"


class Place(NamedTuple):
    """A user's directories, and a configuration whose name systemd would take apart."""

    folder: Path
    env: dict[str, str]
    config: Path

    @property
    def units(self) -> Path:
        return Path(self.env["XDG_CONFIG_HOME"], "systemd/user")

    def run(self, *words: str, **more: str) -> tuple[int, Any]:
        """(exit code, what it answered); what it says to people is not looked at."""
        done = subprocess.run(
            [HEALCTL, *words, "--json"], env={**os.environ, **self.env, **more}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout)

    def install(self, *words: str, **more: str) -> tuple[int, Any]:
        return self.run("install", "--user", "-c", str(self.config), *words, **more)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file() and "healctl" in path.name)


@pytest.fixture
def place() -> Iterator[Place]:
    """No systemd answers there."""
    with site() as made:
        config = made.folder / "50% of $HOME.toml"
        head = f'[healctl]\nstate_dir = "{made.folder}/state"\nruntime_dir = "{made.folder}/run"\n'
        config.write_text(head + CONFIG)
        env = {"XDG_CONFIG_HOME": f"{made.folder}/config", "XDG_DATA_HOME": f"{made.folder}/data",
               "XDG_RUNTIME_DIR": f"{made.folder}/none"}  # fmt: skip
        yield Place(made.folder, env, config)


@pytest.mark.skipif(bool(systemd.missing()), reason=systemd.missing())
def test_it_is_installed_runs_is_left_alone_and_is_gone_again(place: Place) -> None:
    with systemd.user_manager() as manager:
        env = manager.environment
        code, done = place.install("--units-only", **env)
        assert code == 0, done
        assert done["unit"] == {"active": True, "enabled": True}
        assert [it["change"] for it in done["files"]] == ["write", "write"]
        main = manager.property("healctl.service", "MainPID")
        assert place.run("status", "-c", str(place.config))[0] == 0, "systemd took the very name of the configuration"

        code, again = place.install("--units-only", **env)
        assert (code, again["ran"], [it["change"] for it in again["files"]]) == (0, [], ["same", "same"])
        assert manager.property("healctl.service", "MainPID") == main

        unit = Path(env["XDG_CONFIG_HOME"], "systemd/user", SERVICE)
        unit.write_text(unit.read_text().replace("RestartSec=5", "RestartSec=6"))
        for command in ("install", "uninstall"):
            code, refused = place.run(command, "--user", "-c", str(place.config), **env)
            assert (code, refused["code"]) == (1, "refused")
            assert "nothing was changed" in refused["error"]
        assert "RestartSec=6" in unit.read_text()
        code, forced = place.install("--units-only", "--force", **env)
        assert (code, forced["kept"]) == (0, [f"{unit}{KEPT}"])
        assert forced["ran"][-1] == "systemctl --user restart healctl.service"
        assert manager.property("healctl.service", "MainPID") not in ("0", main)

        # An install that was killed when its files were in place: the next one goes on from there.
        main = manager.property("healctl.service", "MainPID")
        place.config.write_text(
            place.config.read_text() + '[process.x]\nmatch = "xyz"\nrestart = { argv = ["/bin/x"] }\n'
        )
        assert place.install("--units-only", "--no-enable", **env)[1]["files"][1]["change"] == "replace"
        code, rest = place.install("--units-only", **env)
        assert (code, [it["change"] for it in rest["files"]]) == (0, ["same", "same"])
        assert rest["ran"] == [f"systemctl --user {it}" for it in ("daemon-reload", "restart healctl.service")]
        assert manager.property("healctl.service", "MainPID") not in ("0", main)

        unit.rename(f"{unit}.mine")
        unit.symlink_to("/dev/null")
        code, refused = place.install("--units-only", "--force", **env)
        assert (code, refused["code"]) == (1, "refused")
        assert "is masked" in refused["error"]
        Path(f"{unit}.mine").rename(unit)

        dry, real = (place.run("uninstall", "--user", *words, **env) for words in (("--dry-run",), ()))
        assert dry == real
        assert real[0] == 0
        assert f"the state stays: {place.folder}/state" in real[1]["notes"]
        assert manager.property("healctl.service", "LoadState") == "not-found"
        assert [path.name for path in unit.parent.rglob("*") if "healctl" in path.name] == [f"{SERVICE}{KEPT}"]
        assert place.run("status", "-c", str(place.config))[0] == 3


def test_without_systemd_it_says_what_to_do_and_writes_nothing(place: Place) -> None:
    code, refused = place.install()
    assert (code, refused["code"]) == (1, "refused")
    assert "does not reach systemd" in refused["error"]
    assert "healctl start --detach" in refused["hint"]
    assert "--no-enable" in refused["hint"]
    code, refused = place.install(XDG_RUNTIME_DIR="")
    assert "loginctl enable-linger" in refused["hint"]
    code, refused = place.install(PATH=str(place.folder))
    assert (code, refused["code"]) == (1, "refused")
    assert "systemctl is not found" in refused["error"]
    assert place.files() == []


def test_the_files_alone_and_all_of_them_gone_again(place: Place) -> None:
    assert place.install("--no-enable", "--dry-run")[0] == 0
    assert place.files() == []
    code, done = place.install("--no-enable")
    assert (code, done["ran"], done["unit"]) == (0, [], None)
    written = place.files()
    assert {SERVICE, FAILURE, "healctl.1", "healctl-heal-approve.1"} < set(written)
    assert {shell: any(shell in it["path"] for it in done["files"]) for shell in ("bash", "zsh", "fish")} == {
        shell: shutil.which(shell) is not None for shell in ("bash", "zsh", "fish")
    }
    stale = place.folder / "data/man/man1/healctl-gone.1"
    page = stale.with_name("healctl.1")
    stale.write_bytes(page.read_bytes())
    code, again = place.install("--no-enable")
    assert [it for it in again["files"] if it["change"] != "same"] == [{"path": str(stale), "change": "remove"}]
    assert not stale.exists(), "the page of a command that is no more"
    wants = place.units / "default.target.wants"
    wants.mkdir()
    (wants / SERVICE).symlink_to(place.units / SERVICE)  # as an image is enabled, where no systemd runs
    page.write_text("mine")
    assert place.install("--no-enable")[0] == 1
    code, gone = place.run("uninstall", "--user")
    assert code == 0
    assert "only files were removed" in "".join(gone["notes"])
    assert place.files() == ["healctl.1"]
    assert list(wants.iterdir()) == []
    (wants / SERVICE).symlink_to("/usr/lib/systemd/system/healctl.service")  # a package's
    assert place.run("uninstall", "--user")[1]["files"] == []
    assert [path.name for path in wants.iterdir()] == [SERVICE]


def test_a_configuration_that_is_wrong_or_missing_is_the_next_step(place: Place) -> None:
    code, none = place.run("install", "--user", "--no-enable", HOME=str(place.folder))
    if not Path("/etc/healctl/healctl.toml").exists():
        assert (code, none["code"]) == (78, "bad_configuration")
        assert "healctl init" in none["hint"]
    place.config.write_text("[policy]\nsettle = 5\n")
    code, wrong = place.install("--no-enable")
    assert (code, wrong["code"]) == (78, "bad_configuration")
    assert "policy.settle" in wrong["error"]
    assert "nothing was changed: correct it, then healctl check" in wrong["hint"]
    bad = place.folder / "a\nExecStart=b.toml"
    bad.write_text(CONFIG)
    code, refused = place.run("install", "--user", "--no-enable", "-c", str(bad))
    assert (code, refused["code"]) == (2, "usage")
    assert place.files() == []


def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_half_done(place: Place) -> None:
    place.folder.joinpath("config").mkdir()
    place.folder.joinpath("config/systemd").write_text("a file in the place of a folder")
    code, failed = place.install("--no-enable")
    assert (code, failed["code"]) == (1, "failed")
    assert str(place.folder / "config/systemd") in failed["error"]
    assert failed["hint"] == "nothing was changed"
    assert place.files() == []


def test_print_shows_the_units_and_writes_nothing(place: Place) -> None:
    words = [HEALCTL, "install", "--user", "--print", "-c", place.config]
    done = subprocess.run(words, env={**os.environ, **place.env}, capture_output=True, text=True, check=True)
    assert f"# {place.units / SERVICE}\n" in done.stdout
    assert done.stdout.count("[Service]") == 2
    assert f'ExecStart={HEALCTL} -c "{str(place.config).replace("%", "%%").replace("$", "$$")}" start' in done.stdout
    assert place.files() == []


def test_people_are_told_in_words(place: Place) -> None:
    words = [HEALCTL, "install", "--user", "--no-enable", "-o", "table", "-c", place.config]
    done = subprocess.run(words, env={**os.environ, **place.env}, capture_output=True, text=True, check=True)
    assert f"write      {place.units / SERVICE}\n" in done.stdout
    assert f"manual pages in {place.folder}/data/man/man1\n" in done.stdout
    again = subprocess.run(words, env={**os.environ, **place.env}, capture_output=True, text=True, check=True)
    assert again.stdout == "nothing to change\n"


def test_only_root_installs_for_the_system(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from supervisor.cli.main import run

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in ("install", "uninstall"):
        assert run([command, "--system", "--json"]) == 1
        refused = json.loads(capsys.readouterr().out)
        assert refused["code"] == "refused"
        assert refused["hint"].startswith(f"sudo {HEALCTL} {command} --system")
