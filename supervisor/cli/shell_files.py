"""The completions and the manual pages as `healctl install` puts them into their places: made of the command tree."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from click.shell_completion import get_completion_class

from supervisor.cli import manual
from supervisor.cli.main import cli
from supervisor.install.files import Found, Wanted, judged
from supervisor.install.scope import Scope

VARIABLE = "_HEALCTL_COMPLETE"


def wanted(scope: Scope, shells: Iterable[str]) -> list[Wanted]:
    """One file for each shell, one for each command."""
    files = [Wanted(scope.completions[shell], _completion(shell)) for shell in shells]
    pages = [Wanted(scope.manuals / f"{manual.title(it)}.1", manual.page(it), '.\\"') for it in manual.tree()]
    return files + pages


def ours(scope: Scope) -> list[Path]:
    """Completions and manual pages that install has written, of whatever version. Raises HealError."""
    there = [*scope.completions.values(), *sorted(scope.manuals.glob("healctl*.1"))]
    return [path for path in there if judged(path) is Found.OURS]


def _completion(shell: str) -> str:
    """click's own script, without its look at the version of the shell, for which it would run it."""
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(cli, {}, "healctl", VARIABLE)
    return made.source_template % made.source_vars()
