"""bash, zsh and fish as a person types in them: the Tab key finds what `healctl install` has put into its place, with
nothing in their settings but what install says. bash's own look-up is the package bash-completion's."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.lab import mounts
from tests.lab.daemon import HEALCTL, Site
from tests.lab.daemon import site as site_of

LOADER = Path("/usr/share/bash-completion/bash_completion")
PROMPT = b"now> "
WITHIN_S = 60.0
SETTINGS = {
    "bash": (".bashrc", f"PS1='now> '\n. {LOADER}\n"),
    "zsh": (".zshrc", "PS1='now> '\n{fpath}autoload -Uz compinit; compinit -D -u\n"),
    "fish": (".config/fish/config.fish", "function fish_prompt; echo -n 'now> '; end\n"),
}  # fmt: skip
ARGV = {"bash": ["bash", "--noprofile", "-i"], "zsh": ["zsh", "-i"], "fish": ["fish", "-i"]}


@pytest.fixture
def here() -> Iterator[Site]:
    with site_of() as made:
        yield made


@contextlib.contextmanager
def shell(argv: list[str], env: Mapping[str, str]) -> Iterator[int]:
    """The terminal of an interactive shell."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, dict(env))
    try:
        yield terminal
    finally:
        os.close(terminal)  # it hangs up
        os.waitpid(pid, 0)


def shown(terminal: int, words: bytes) -> None:
    """Waits until the terminal has shown them."""
    seen, until_s = b"", time.monotonic() + WITHIN_S
    while words not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, until_s - time.monotonic()))
        assert ready, f"{words!r} was not shown: {seen!r}"
        seen += os.read(terminal, 4096)


def tab(name: str, home: Path, env: Mapping[str, str]) -> None:
    """`heal dis` and the Tab key become `heal dismiss`."""
    with shell(ARGV[name], {**env, "HOME": str(home), "TERM": "dumb"}) as terminal:
        shown(terminal, PROMPT)
        os.write(terminal, b"healctl heal dis\t")
        shown(terminal, b"dismiss ")


def wanted(name: str) -> None:
    if shutil.which(name) is None or (name == "bash" and not LOADER.exists()):
        pytest.skip(f"{'bash-completion' if name == 'bash' else name} is not installed (Debian)")


def settled(name: str, home: Path, fpath: str = "") -> None:
    file, text = SETTINGS[name]
    (home / file).parent.mkdir(parents=True, exist_ok=True)
    (home / file).write_text(text.replace("{fpath}", fpath))


def install(here: Site, env: Mapping[str, str], scope: str) -> str:
    """What it says to people."""
    config = here.daemon("").config_file
    words = [str(HEALCTL), "install", scope, "--no-enable", "-c", str(config), "-o", "table"]
    done = subprocess.run(words, env=dict(env), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done
    return done.stderr


def environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": f"{HEALCTL.parent}:/usr/local/bin:/usr/bin:/bin", "XDG_RUNTIME_DIR": f"{home}/r"}


@pytest.mark.req("FR-007")
@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("data", ["", "XDG_DATA_HOME", "BASH_COMPLETION_USER_DIR"])
def test_a_user_s_shell_completes_what_install_has_put_there(here: Site, name: str, data: str) -> None:
    wanted(name)
    env = environment(here.folder)
    if data:  # bash-completion 2.11 takes a name with a space in it for two
        env[data] = f"{here.folder}/{'elsewhere' if name == 'bash' else 'else where'}"
    note = install(here, env, "--user")
    said = note.partition("before compinit: ")[2].partition("\n")[0]
    settled(name, here.folder, f"{said}\n" if name == "zsh" else "")
    tab(name, here.folder, env)


@pytest.mark.req("FR-007")
@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_everybody_s_shell_completes_what_install_has_put_there(here: Site, name: str) -> None:
    wanted(name)
    env = environment(here.folder)
    with (
        mounts.tmpfs(Path("/usr/local/share")),
        mounts.tmpfs(Path("/etc/systemd/system")),
        mounts.tmpfs(Path("/etc/fish/completions")),
    ):
        install(here, env, "--system")
        settled(name, here.folder)
        tab(name, here.folder, env)
