"""The manual pages and the completions: made of the command tree itself, judged by the programs that read them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from supervisor.cli import manual
from supervisor.cli.main import COMMANDS
from tests import parts

pytestmark = pytest.mark.req("FR-007")

HEALCTL = Path(sys.executable).parent / "healctl"
CONTEXTS = list(manual.tree())


def test_every_command_has_its_page_and_what_is_no_more_loses_it(tmp_path: Path) -> None:
    (tmp_path / "healctl-gone.1").write_text("of another version")
    (tmp_path / "other.1").write_text("not ours")
    written = manual.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*(path.name for path in written), "other.1"}
    assert {f"healctl-{name}.1" for name in COMMANDS} < {path.name for path in written}
    assert (tmp_path / "healctl-heal-dry_run.1").exists()


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda it: it.command_path)
def test_a_page_says_what_help_says(context: click.Context) -> None:
    text = _unroffed(manual.page(context))
    helped = context.command.get_help(context)
    words = [
        word
        for word in re.findall(r"[\w-]{4,}", helped)
        if word not in ("Usage", "Commands", "Example", "Exit", "codes")
    ]
    missing = [word for word in words if word.lower() not in text.lower()]
    assert missing == []
    for option in context.command.get_params(context):
        if isinstance(option, click.Option):
            assert all(name in text for name in option.opts), option.name


def test_exit_codes_and_other_notes_keep_their_form() -> None:
    (check,) = [it for it in CONTEXTS if it.command_path == "healctl check"]
    page = manual.page(check)
    assert re.findall(r"^\.B (\d+)$", page, re.MULTILINE) == ["0", "1", "78"]
    assert "\n.SH NOTES\n.nf\nJSON: {ok, file" in page


def test_hostile_words_are_shown_as_they_are() -> None:
    command = click.Command("x", help=".so /etc/passwd\\n 'quoted' `x` ~ ^ - é", epilog='\b\nExample:\n  .de "a\\b"')
    page = manual.page(click.Context(command, info_name="x"))
    assert "\n.so" not in page
    assert "\n.de" not in page
    assert "\\&.so /etc/passwd\\en \\(aqquoted\\(aq \\(gax\\(ga \\(ti \\(ha \\- \\[u00E9]" in page


def test_mandoc_has_nothing_to_object_to(tmp_path: Path) -> None:
    mandoc = parts.mandoc()
    pages = manual.write(tmp_path)
    done = subprocess.run([mandoc, "-T", "lint", "-W", "warning", *pages], capture_output=True, text=True, check=False)
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


def _unroffed(page: str) -> str:
    text = page.replace("\\-", "-").replace("\\(aq", "'").replace("\\(dq", '"').replace("\\fB", "").replace("\\fR", "")
    return text.replace("\\&", "").replace("\\e", "\\")


def completed(shell: str, **more: str) -> str:
    environment = {**os.environ, "_HEALCTL_COMPLETE": f"{shell}_complete", **more}
    return subprocess.run([HEALCTL], env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize(
    ("shell", "more"),
    [
        ("bash", {"COMP_WORDS": "healctl heal dis", "COMP_CWORD": "2"}),
        ("zsh", {"COMP_WORDS": "healctl heal dis", "COMP_CWORD": "2"}),
        ("fish", {"COMP_WORDS": "healctl heal dis", "COMP_CWORD": "dis"}),
    ],
)
def test_a_subcommand_is_completed_in_the_words_of_each_shell(shell: str, more: dict[str, str]) -> None:
    assert "dismiss" in completed(shell, **more)


@pytest.mark.parametrize(
    ("shell", "ask"),
    [
        (
            "bash",
            '. "$1"; COMP_WORDS=(healctl heal dis); COMP_CWORD=2; _healctl_completion healctl; echo "${COMPREPLY[@]}"',
        ),
        ("zsh", 'zsh -n "$1" && echo dismiss'),
        ("fish", "fish -c \"source $1; complete --do-complete 'healctl heal dis'\""),
    ],
)
def test_the_shell_itself_takes_the_script(shell: str, ask: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    environment = {**os.environ, "PATH": f"{HEALCTL.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    script = tmp_path / f"healctl.{shell}"
    made = subprocess.run(
        [HEALCTL], env={**environment, "_HEALCTL_COMPLETE": f"{shell}_source"}, capture_output=True, check=True
    )
    script.write_bytes(made.stdout)
    done = subprocess.run(
        ["bash", "-c", ask, "-", str(script)], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert "dismiss" in done.stdout, done.stderr
