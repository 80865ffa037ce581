"""The two units for one configuration, one program and one scope: what is computed of them, put together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from supervisor.config import Config, dirs
from supervisor.install import unit
from supervisor.install.files import Wanted
from supervisor.install.sandbox import UNIT_PATH, sandbox, search_path
from supervisor.install.scope import Scope, others_who_may_change


def units(
    config: Config, file: Path, program: Path, scope: Scope, env: Mapping[str, str], mounts: Iterable[str]
) -> tuple[list[Wanted], list[str]]:
    """The service's and the failure's, the latter first, since the service refers to it; and what to tell people.

    `mounts`: where file systems that can be written are mounted. Raises UsageError for a path that no unit can have.
    """
    folders, missing = search_path(config, env.get("PATH", os.defpath))
    environment: list[str] = []
    if folders:
        path = f"PATH={':'.join((*UNIT_PATH, *folders))}"
        environment += ["# Programs of this configuration are there, where systemd would not look.", _set(path)]
    state_home = env.get("XDG_STATE_HOME", "")
    if scope.user and state_home and not config.healctl.state_dir:
        environment += [
            "# As it was for `healctl install`: the state is below it.",
            _set(f"XDG_STATE_HOME={state_home}"),
        ]
    fitted = unit.Fitted(
        scope="a user" if scope.user else "the system",
        configuration=str(file),
        state=str(dirs(config).state_dir),
        sandbox=sandbox(config, user=scope.user, mounts=mounts),
        environment=tuple(environment),
    )
    words = (str(program), "-c", str(file))
    made = [
        Wanted(scope.units / unit.FAILURE, unit.failure(words, fitted)),
        Wanted(scope.units / unit.SERVICE, unit.service(words, fitted)),
    ]
    notes = [f"{what} is not found in PATH" for what in missing]
    for folder in folders if not scope.user else ():
        if whose := next(others_who_may_change(Path(folder)), ""):
            notes.append(f"{whose}: who may change what is in {folder} can do anything here as root")
    return made, notes


def _set(variable: str) -> str:
    return f"Environment={unit.quoted(variable)}"
