"""Files of `healctl install`: known by their mark, put all or none, kept when they are somebody else's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.cli import shell_files
from supervisor.errors import HealError
from supervisor.install import files
from supervisor.install.files import FILE_BYTES_MAX, KEPT, Found, Wanted, found, judged, put, remove, set_aside
from supervisor.install.scope import SHELLS, Scope, scope
from tests.lab import mounts

pytestmark = pytest.mark.req("FR-007")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def test_a_file_is_ours_until_somebody_changes_it(tmp_path: Path) -> None:
    one, other = Wanted(tmp_path / "a/one", "text\n"), Wanted(tmp_path / "a/one", "another\n", '.\\"')
    assert found(one) is Found.NOTHING
    assert put([one]) == []
    assert (found(one), found(other), judged(one.path)) == (Found.SAME, Found.OURS, Found.OURS)
    assert one.path.stat().st_mode & 0o777 == 0o644
    whole = one.path.read_bytes()
    for changed in (
        whole.replace(b"text", b"texT"),
        whole[:-1],
        whole + b"\n",
        whole[:20],
        b"",
        b"x" * (FILE_BYTES_MAX + 1),
    ):
        one.path.write_bytes(changed)
        assert (found(one), judged(one.path)) == (Found.FOREIGN, Found.FOREIGN), changed[:40]


def test_what_is_no_regular_file_is_not_ours(tmp_path: Path) -> None:
    one = Wanted(tmp_path / "one", "text\n")
    real = Wanted(tmp_path / "real", "text\n")
    put([real])
    one.path.symlink_to(real.path)
    assert judged(one.path) is Found.FOREIGN, "another file would be changed"
    one.path.unlink()
    one.path.symlink_to("/dev/null")
    assert judged(one.path) is Found.FOREIGN, "masked"
    one.path.unlink()
    os.mkfifo(one.path)
    assert judged(one.path) is Found.FOREIGN
    one.path.unlink()
    one.path.mkdir()
    assert judged(one.path) is Found.FOREIGN
    with pytest.raises(HealError) as failed:
        put([one])
    assert failed.value.hint == "nothing was changed"


def test_what_others_have_written_is_kept_and_what_was_kept_too(tmp_path: Path) -> None:
    one = Wanted(tmp_path / "one", "text\n")
    for number, name in enumerate((f"one{KEPT}", "one.before1~", "one.before2~")):
        one.path.unlink(missing_ok=True)
        one.path.write_text(f"by hand {number}")
        assert put([one]) == [tmp_path / name]
        assert (tmp_path / name).read_text() == f"by hand {number}"
    assert put([Wanted(one.path, "another\n")]) == [], "what is ours is not worth it"
    assert set_aside([one.path]) == [tmp_path / "one.before3~"]
    with pytest.raises(HealError, match="No such file"):
        set_aside([tmp_path / "none"])


def test_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "no folder").write_text("")
    wanted = [Wanted(tmp_path / "a/one", "text\n"), Wanted(tmp_path / "no folder/two", "text\n")]
    with pytest.raises(HealError) as failed:
        put(wanted)
    assert failed.value.hint == "nothing was changed"
    assert str(tmp_path / "no folder") in failed.value.message
    assert names(tmp_path) == ["no folder"]


@pytest.mark.parametrize("options", ["size=64k", "size=64k,ro"])
def test_a_full_disk_or_a_read_only_one_changes_nothing(tmp_path: Path, options: str) -> None:
    with mounts.tmpfs(tmp_path / "disk", options) as disk:
        wanted = [Wanted(disk / "one", "text\n"), Wanted(disk / "two", "x" * 80_000)]
        with pytest.raises(HealError, match=r"No space left|Read-only") as failed:
            put(wanted)
        assert failed.value.hint == "nothing was changed"
        assert names(disk) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from supervisor.install.files import Wanted, put
left, real = int(sys.argv[2]), os.fsync
def fsync(fd):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(fd)
os.fsync = fsync
put([Wanted(Path(sys.argv[1], name), f"{name}, new\\n" * 1000) for name in ("one", "two")])
"""


def test_a_kill_leaves_each_file_whole_and_the_next_run_ends_it(tmp_path: Path) -> None:
    old = [Wanted(tmp_path / name, f"{name}, old\n") for name in ("one", "two")]
    new = [Wanted(tmp_path / name, f"{name}, new\n" * 1000) for name in ("one", "two")]
    ends = []
    for left in range(10):
        put(old)
        code = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(left)], check=False, timeout=60
        ).returncode
        ends.append(code)
        for before, after in zip(old, new, strict=True):
            assert Found.SAME in (found(before), found(after))
        put(new)
        assert names(tmp_path) == ["one", "two"]
        if code == 0:
            break
    assert ends == [-signal.SIGKILL] * (len(ends) - 1) + [0]
    assert len(ends) == 5, "each file's content, and the name of each"


def test_what_is_removed_takes_along_what_a_killed_run_has_left(tmp_path: Path) -> None:
    one = Wanted(tmp_path / "one", "text\n")
    put([one])
    (tmp_path / ".one.healctl-new").write_text("half")
    remove([one.path, tmp_path / "never/was"])
    assert names(tmp_path) == []


def user_scope(folder: Path) -> Scope:
    env = {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_DATA_HOME": str(folder / "data")}
    return scope(env, user=True)


@pytest.mark.req("NFR-003")
def test_bash_looks_first_into_the_first_of_its_user_s_folders() -> None:
    """BASH_COMPLETION_USER_DIR is a list since bash-completion 2.12: nobody looks into a folder called /mine:/more."""
    env = {"HOME": "/me", "BASH_COMPLETION_USER_DIR": "/mine:/more"}
    assert scope(env, user=True).completions["bash"] == Path("/mine/completions/healctl")
    default = Path("/me/.local/share/bash-completion/completions/healctl")
    assert scope({**env, "BASH_COMPLETION_USER_DIR": ":/more"}, user=True).completions["bash"] == default


@pytest.mark.parametrize("home", ["", "relative/home"])
def test_a_home_that_is_no_absolute_path_is_no_place_to_write_to(home: str) -> None:
    """Once it wrote to the folder that it was called in, or to /.config."""
    with pytest.raises(HealError, match=f"HOME is '{home}', which is no absolute path"):
        scope({"HOME": home, "XDG_DATA_HOME": "/data"}, user=True)
    assert scope({"HOME": "/me", "XDG_CONFIG_HOME": "relative"}, user=True).units == Path("/me/.config/systemd/user")


@pytest.mark.parametrize(
    ("shell", "ask"),
    [
        ("bash", 'BASH_COMPLETION_USER_DIR={data}/bash-completion; . {file}; complete -p healctl'),
        ("zsh", "fpath=({data}/zsh/site-functions $fpath); autoload compinit; compinit -D -u; echo $_comps[healctl]"),
        ("fish", "complete -C 'healctl heal dis' >/dev/null; functions -q _healctl_completion; and echo _healctl"),
    ],
)  # fmt: skip
def test_each_shell_finds_its_completion_where_it_is_put(shell: str, ask: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    place = user_scope(tmp_path)
    wanted = shell_files.wanted(place, [shell])
    put(wanted)
    script = ask.format(data=tmp_path / "data", file=place.completions[shell])
    env = {
        "HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_DATA_HOME": str(tmp_path / "data"),
    }  # fmt: skip
    done = subprocess.run([shell, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "_healctl" in done.stdout, done
    assert done.stderr == ""
    assert set(shell_files.ours(place)) == {one.path for one in wanted}
    assert tuple(place.completions) == SHELLS


def test_what_was_changed_by_hand_is_not_ours_to_remove(tmp_path: Path) -> None:
    place = user_scope(tmp_path)
    put(shell_files.wanted(place, SHELLS))
    page = place.manuals / "healctl-heal.1"
    page.write_text(page.read_text() + "mine\n")
    (place.manuals / "healctl-mine.1").write_text("mine")
    remove(shell_files.ours(place))
    assert names(tmp_path) == ["healctl-heal.1", "healctl-mine.1"]
    assert files.judged(page) is Found.FOREIGN
