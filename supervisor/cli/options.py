"""What the commands share: the settings of one call, and the options that fill them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from supervisor.config import Config
    from supervisor.places import Dirs
    from supervisor.units import LogFormat

Command = TypeVar("Command", bound=Callable[..., Any])


def duration_s(text: str, option: str) -> float:
    """Seconds. Raises click.BadParameter for what is no duration."""
    from supervisor.units import DURATION_FORM, parse_duration

    found = parse_duration(text)
    if found is None:
        raise click.BadParameter(f"found {text!r}, expected {DURATION_FORM}", param_hint=option)
    return float(found)


class Settings:
    """One call's answers to -c and -o. `output` is empty where a command has none: it speaks to people only."""

    def __init__(self) -> None:
        self.config_path: Path | None = None
        self.output = ""
        self.actor = ""  # who asks, as the trail and the audit tell it; empty: the person at this terminal
        self.log_format: LogFormat | None = None  # of what becomes the daemon: a refusal is then a line of its log

    @property
    def json(self) -> bool:
        return self.output == "json"

    def load(self) -> Config:
        """The configuration in force. Raises ConfigError."""
        from supervisor import config

        return config.load(self.config_path, os.environ)

    def dirs(self) -> Dirs:
        """Where the daemon of that configuration lives. Raises ConfigError."""
        from supervisor import places

        return places.load_dirs(self.config_path, os.environ)


def settings() -> Settings:
    found: Settings = click.get_current_context().ensure_object(Settings)
    return found


def _set_config(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
    del parameter
    if value is not None:
        context.ensure_object(Settings).config_path = value


def _set_output(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    del parameter
    found = context.ensure_object(Settings)
    if value:
        found.output = value
    elif not found.output:
        found.output = "table" if sys.stdout.isatty() else "json"


def _set_json(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value:
        context.ensure_object(Settings).output = "json"


def with_config(command: Command) -> Command:
    """-c FILE."""
    option = click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        callback=_set_config,
        expose_value=False,
        is_eager=True,
        metavar="FILE",
        help="Configuration file (else $HEALCTL_CONFIG, the standard places, the defaults).",
    )
    return option(command)


def with_output(command: Command) -> Command:
    """-c FILE, -o json|table, --json."""
    json = click.option(
        "--json", is_flag=True, callback=_set_json, expose_value=False, is_eager=True, help="Short for -o json."
    )
    output = click.option(
        "-o",
        "--output",
        type=click.Choice(["json", "table"]),
        callback=_set_output,
        expose_value=False,
        is_eager=True,
        help="Default: a table on a terminal, JSON otherwise.",
    )
    return output(json(with_config(command)))
