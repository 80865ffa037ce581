"""`healctl`: finds the command, runs it, turns every error into words and an exit code.

Exit codes (DESIGN §6): 0 ok, 1 failed or refused, 2 usage, 3 not running, 4 unknown id, 5 needs --confirm, 70 the
core gave up, 78 bad configuration, 130 interrupted. A command's module is imported when it is called, so that `--help`
costs nothing.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

import click

import supervisor
from supervisor.cli.options import Settings, with_config
from supervisor.errors import HealError

# name -> (module, attribute, one line of help, shown). The only list of commands.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "start": ("daemon", "start", "Run the daemon, in the foreground or with --detach."),
    "stop": ("daemon", "stop", "Stop the daemon and wait until it is gone."),
    "reload": ("daemon", "reload", "Let the daemon read its configuration again."),
    "status": ("daemon", "status", "Show the daemon's own workers, store and outbox."),
    "init": ("init", "init", "Look at this host and write a configuration to begin with."),
    "doctor": ("doctor", "doctor", "Look for what would bite on this host, and say how to mend it."),
    "install": ("install", "install", "Install it as a unit of systemd, with completions and manual pages."),
    "uninstall": ("install", "uninstall", "Stop it and remove what install has written; state stays."),
    "check": ("check", "check", "Check the configuration, and what each target reads now (--live)."),
    "probe": ("probe", "probe", "Read one target now."),
    "feed": ("feed_in", "feed", "Hand in readings and insights of other programs."),
    "tui": ("tui", "tui", "Watch and decide, in the terminal's dashboard."),
    "heal": ("heal", "heal", "Incidents and runbooks: status, approve, execute, dismiss ..."),
    "db": ("db", "db", "Databases: copies, their verification, and restoring one."),
    "ack": ("operate", "ack", "Acknowledge an incident: its page is not repeated."),
    "pause": ("operate", "pause", "Let healctl change nothing about a target, a family or anything."),
    "resume": ("operate", "resume", "End a pause."),
    "audit": ("operate", "audit", "Show who ordered what."),
    "capture": ("capture", "capture", "Report what is run by hand while an incident is open."),
    "page": ("page", "page", "Page that a systemd unit of healctl has failed; needs no daemon."),
    "mcp": ("mcp", "mcp", "Serve cortex_heal to agents over MCP, on standard input and output."),
    "stats": ("operate", "stats", "Show counts and last times (self_healing_status)."),
    "report": ("report", "report", "How well it does: times to detect and repair, false actions, pages."),
    "events": ("events", "events", "Show open incidents, or follow what happens."),
    "drill": ("drill", "drill", "Send a made-up incident all the way to a receipt, and time each stage."),
    "replay": ("replay", "replay", "Decide again what a recording holds, and compare."),
    "demo": ("demo", "demo", "Watch a service, a disk and a database be broken and healed, in a sandbox."),
}

EXIT_INTERRUPTED = 130  # as a shell tells of what SIGINT has ended: 128 + 2

EPILOG = """\b
Examples:
  healctl demo                    see it work: about 15 seconds, nothing installed
  healctl start                   run in the foreground with the configuration found
  healctl heal status             what is broken right now
  healctl events --follow         what happens, as it happens

\b
Exit codes: 0 ok, 1 failed or refused, 2 usage, 3 not running, 4 unknown id,
  5 needs --confirm, 70 the core gave up, 78 bad configuration, 130 interrupted (Ctrl-C).
"""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called or helped."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"supervisor.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value:
        click.echo(f"healctl {supervisor.__version__}")
        context.exit()


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Show the version and exit."
)
@with_config
def cli() -> None:
    """healctl watches what you run, repairs what it may, proves that the repair worked, and tells you only what is
    yours to decide."""


def refuse_foreign_package() -> None:
    """supervisord ships a package called `supervisor`; installed into the same place, its files overwrite ours."""
    here = os.path.dirname(supervisor.__file__ or "")
    if not hasattr(supervisor, "__version__") or os.path.exists(os.path.join(here, "supervisord.py")):
        sys.stderr.write(
            f"healctl: {here} also holds supervisord, whose package has the same name: neither would work\n"
            "  install healctl apart from it: uv tool install healctl, pipx install healctl, or a venv of its own\n"
        )
        raise SystemExit(1)


def run(args: list[str]) -> int:
    """Runs one command line and returns its exit code; every error is told, none is a traceback of ours."""
    chosen = Settings()
    try:
        return _run(args, chosen)
    except BrokenPipeError:
        # The reader (head, less) has seen enough; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UnicodeEncodeError:
        _tell(chosen, "an argument is not UTF-8 text", "usage", "ids and texts are sent as UTF-8")
        return 2
    except OSError as error:
        from supervisor.cli.output import fault

        # The disk behind standard output is full, say. What could not be written must not be tried again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = error.filename or "the output cannot be written"
        fault(f"{where}: {error.strerror or error}", chosen.log_format)
        return 1


def _run(args: list[str], chosen: Settings) -> int:
    try:
        result: Any = cli.main(args=args, prog_name="healctl", standalone_mode=False, obj=chosen)
    except HealError as error:
        _tell(chosen, error.message, error.code, error.hint)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(error.format_message() + "\n")
        return 2
    except click.ClickException as error:
        error.show(sys.stderr)
        return 2
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def _tell(chosen: Settings, message: str, code: str, hint: str) -> None:
    from supervisor.cli.output import show_error

    show_error(json=chosen.json, message=message, code=code, hint=hint, log_format=chosen.log_format)


def open_streams() -> None:
    """A caller may have closed them (`>&-`): the next file that is opened, a database say, would become our output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has no such letter
        else:
            sys.stdout.reconfigure(encoding="utf-8")  # JSON is, whatever the locale (RFC 8259)


def main() -> None:
    """The console script."""
    open_streams()
    refuse_foreign_package()
    sys.exit(run(sys.argv[1:]))
