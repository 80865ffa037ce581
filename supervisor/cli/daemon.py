"""`healctl start | stop | reload | status`: the daemon itself, and its configuration.

`start` becomes the root of the tree, which must stay forkable: nothing here may make a ZeroMQ context or a thread.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import supervisor
from supervisor.cli import output
from supervisor.cli.options import duration_s, settings, with_config, with_output
from supervisor.errors import AlreadyRunning, HealError, NotRunning, Refused

if TYPE_CHECKING:
    from supervisor.config import Config
    from supervisor.messages import Reloaded
    from supervisor.places import Dirs

EXAMPLE = """\
  [process.web]
  pid_file = "/run/web.pid"
  auto_restart = true
  restart = { argv = ["/usr/local/bin/web", "--daemon"] }"""
STATUS_S = 5.0
LOOK_AGAIN_S = 0.02  # between two looks at what became of a reload


@click.command(epilog="\b\nExamples:\n  healctl start\n  healctl start -c healctl.toml --detach")
@click.option("--detach", is_flag=True, help="Return when every worker is ready; the log goes to a file.")
@with_config
def start(detach: bool) -> int:
    """Run the daemon, by default in the foreground, until `healctl stop` or Ctrl-C.

    With no configuration at all it runs too, and says how to add what it shall watch.
    """
    from supervisor import config, places
    from supervisor.tree import lock
    from supervisor.units import LogFormat

    chosen = settings()
    chosen.log_format = None if detach else LogFormat.AUTO
    loaded = chosen.load()
    chosen.log_format = None if detach else loaded.healctl.log_format
    where = config.dirs(loaded)
    if (other := lock.holder(where.runtime_dir)) is not None:
        raise AlreadyRunning(
            f"healctl is already running in {where.runtime_dir}, pid {other.pid}",
            "healctl status shows it, healctl stop ends it; another one needs its own runtime_dir",
        )
    lock.make_state_dir(where.state_dir)
    file = places.locate(chosen.config_path, os.environ)
    _introduce(loaded, where, file, _speaker(loaded, detach))
    from supervisor.tree import serve
    from supervisor.tree.reload import Source

    source = Source(file.absolute() if file is not None else None, dict(os.environ))
    if detach:
        return serve.detach(loaded, where.state_dir, where.runtime_dir, source)
    return serve.run(loaded, where.state_dir, where.runtime_dir, source)


def _introduce(loaded: Config, where: Dirs, file: Path | None, say: Callable[[str], None]) -> None:
    from supervisor.targets import watched
    from supervisor.units import format_duration

    say(f"healctl {supervisor.__version__}, configuration: {file or 'built-in defaults'}")
    say(f"state in {where.state_dir}, sockets in {where.runtime_dir}")
    for name, section in loaded.process.items():
        restarts = "restarts it by itself" if section.auto_restart else "asks before it restarts it"
        say(f"watching {name}: at every death, and every {format_duration(section.interval)}; {restarts}")
    say(f"watching {'; '.join(watched(loaded))}")
    if not loaded.process:
        home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        place = file or ("/etc/healctl/healctl.toml" if os.geteuid() == 0 else f"{home}/healctl/healctl.toml")
        say(f"no service of yours is watched yet; to add one, write to {place}:\n{EXAMPLE}")
    if not loaded.notify.signal.transports:
        say("nobody can be paged: [notify.signal] names no transport; pages wait, and stand in healctl status")


def _speaker(loaded: Config, detach: bool) -> Callable[[str], None]:
    """What healctl says of itself before there is a tree: to the person who starts it, else as lines of the log."""
    from supervisor.tree.output import STDERR, Output

    log = Output(STDERR)
    log.form = loaded.healctl.log_format
    return output.note if detach or log.for_people else partial(log.write, "info", "root")


@click.command(epilog="\b\nExample:\n  healctl stop --timeout 1m")
@click.option("--timeout", default="30s", show_default=True, metavar="DURATION", help="How long to wait for its end.")
@with_config
def stop(timeout: str) -> None:
    """Stop the daemon and wait until it is gone. Services that it healed live on."""
    from supervisor import proc
    from supervisor.cli import client
    from supervisor.tree.lock import holder

    limit_s = duration_s(timeout, "--timeout")
    runtime_dir = settings().dirs().runtime_dir
    ref = holder(runtime_dir)
    pidfd = proc.open_pidfd(ref) if ref is not None else None
    if ref is None or pidfd is None:
        raise client.not_running(runtime_dir)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(int(limit_s * 1000)):
            if client.stopped(runtime_dir):
                raise HealError(client.held(ref.pid), f"{client.let_go(ref.pid)}: then it ends")
            raise HealError(f"healctl (pid {ref.pid}) is still stopping after {timeout}", "look at its log")
    except ProcessLookupError:
        pass  # it ended by itself in between: that is what was asked for
    except PermissionError as error:
        raise HealError(
            f"healctl (pid {ref.pid}) belongs to another user", "stop it as that user, or as root"
        ) from error
    finally:
        os.close(pidfd)
    output.note(f"healctl (pid {ref.pid}) has stopped")


@click.command(epilog="\b\nExamples:\n  healctl reload\n  healctl check && healctl reload")
@click.option(
    "--timeout", default="30s", show_default=True, metavar="DURATION", help="How long to wait for what came of it."
)
@with_output
def reload(timeout: str) -> int:
    """Let the daemon read its configuration again, and say what became of it.

    What has not changed goes on undisturbed. A bad file changes nothing (exit 1, with what is wrong in it); so does one
    that moves the daemon's own directories or databases, which needs a restart.
    """
    import msgspec

    runtime_dir = settings().dirs().runtime_dir
    news = order_reload(runtime_dir, duration_s(timeout, "--timeout"), timeout)
    if not news.ok:
        raise Refused(f"not reloaded, nothing was changed: {news.error}", "correct the file, then healctl reload again")
    if settings().json:
        output.show_json(msgspec.json.encode({"ok": True, "changes": news.changes}))
    else:
        output.say(f"reloaded: {', '.join(news.changes) or 'nothing differs'}")
    return 0


def order_reload(runtime_dir: Path, limit_s: float, limit: str) -> Reloaded:
    """SIGHUP to the daemon, and what came of the reload that began after it."""
    from supervisor import clock, proc
    from supervisor.cli import client
    from supervisor.tree.lock import holder
    from supervisor.tree.reload import outcome

    ref = holder(runtime_dir)
    pidfd = proc.open_pidfd(ref) if ref is not None else None
    if ref is None or pidfd is None:
        raise client.not_running(runtime_dir)
    began_s = clock.monotonic_s()
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGHUP)
        while clock.monotonic_s() < began_s + limit_s:
            news = outcome(runtime_dir)
            if news is not None and news.began_mono_s >= began_s:
                return news
            if select.select([pidfd], [], [], LOOK_AGAIN_S)[0]:
                raise NotRunning(f"healctl (pid {ref.pid}) ended instead of reloading", "look at its log")
    except ProcessLookupError:
        raise client.not_running(runtime_dir) from None
    except PermissionError as error:
        raise HealError(
            f"healctl (pid {ref.pid}) belongs to another user", "reload it as that user, or as root"
        ) from error
    finally:
        os.close(pidfd)
    if client.stopped(runtime_dir):
        raise HealError(client.held(ref.pid), f"{client.let_go(ref.pid)}: then it reloads")
    raise HealError(f"healctl (pid {ref.pid}) has not said within {limit} what became of it", "look at its log")


def _show_tree(answer: dict[str, Any]) -> None:
    rows = [
        (c["name"], c["state"], c["pid"], c["restarts"], output.local_time(c["since"]), c["last_exit"])
        for c in answer["children"]
    ]
    output.table(("WORKER", "STATE", "PID", "RESTARTS", "SINCE", "LAST EXIT"), rows)
    if answer.get("ledger_trouble"):
        output.say(f"The ledger takes no records, so nothing is done: {output.plain(answer['ledger_trouble'])}")
    if (news := answer.get("last_reload")) is not None:
        what = f"refused: {output.plain(news['error'])}" if news["error"] else ", ".join(news["changes"]) or "no change"
        output.say(f"Last reload {output.local_time(news['at'])}: {what}")
    if (drill := answer.get("drill")) is not None:
        output.say(output.drill(drill))
    if (dead_man := answer.get("dead_man")) is not None:
        _show_dead_man(dead_man)
    for piece in answer.get("plugins", ()):
        output.say(output.plain(f"Plugin {piece['distribution']} {piece['version']}: {piece['part']} {piece['name']}"))
    outbox = answer["outbox"]
    line = f"Outbox: {outbox['pending']} pending"
    if outbox["pending"]:
        line += f", oldest {outbox['oldest_s']:.0f} s, last error: {output.plain(outbox['last_error'])}"
    output.say(line)
    for row in outbox["rows"]:
        error = f": {output.plain(row['last_error'])}" if row["last_error"] else ""
        what = f"{row['channel']} tier {row['tier']} {row['kind']}, {row['attempts']} attempts"
        output.say(f"  {output.plain(row['id'])} {what}{error}")
    _show_what_waits(outbox)
    for projection in (answer.get("store") or {}).get("projections", ()):
        behind = f"{projection['behind']} behind" if projection["behind"] else "up to date"
        error = f", {output.plain(projection['last_error'])}" if projection["last_error"] else ""
        output.say(f"{projection['name']} ({output.plain(projection['path'])}): {behind}{error}")
    if (metrics := answer.get("metrics")) is not None:
        well = f"http://{output.plain(metrics['address'])}/metrics"
        told = f"cannot listen on {output.plain(metrics['address'])}: {output.plain(metrics['error'])}"
        output.say(f"Metrics: {told if metrics['error'] else well}")
    for halt in answer.get("halted", ()):
        output.say(output.halted(halt))
    for told in answer.get("at_work", ()):
        output.say(f"At work: {output.working(told)}")
    for breaker in answer["breakers"]:
        where = f"{output.plain(breaker['runbook_id'])} on {output.plain(breaker['resource'])}"
        output.say(f"Breaker {breaker['state']}: {where} since {output.local_time(breaker['opened_at'])}")
    for pause in answer["pauses"]:
        output.say(output.paused(pause))
    output.say(f"Targets: {answer['targets']}. Version {answer['version']}.")


def _show_dead_man(dead_man: dict[str, Any]) -> None:
    """The watcher outside, and whether our pings reach it."""
    last = f"last ping {output.local_time(dead_man['last_ping'])}" if dead_man["last_ping"] else "no ping yet"
    failed = f", {dead_man['failures']} failed since: {output.plain(dead_man['error'])}" if dead_man["error"] else ""
    output.say(f"Dead man's switch {output.plain(dead_man['address'])}: {last}{failed}")


def _show_what_waits(outbox: dict[str, Any]) -> None:
    """In a storm, and in quiet hours."""
    if count := outbox.get("gathered", 0):
        output.say(f"Storm: {count} incidents wait to be told in one message")
    held = outbox.get("held") or {"count": 0, "until": None, "rows": []}
    if held["count"]:
        until = output.local_time(held["until"]) if held["until"] else "now"
        output.say(f"Quiet hours: {held['count']} messages wait until {until}")
    for row in held["rows"]:
        output.say(f"  {output.plain(row['id'])} tier {row['tier']} {row['kind']}: {output.plain(row['subject'])}")


@click.command(epilog="\b\nExample:\n  healctl status --json | jq .children")
@with_output
def status() -> None:
    """Show the daemon's own workers, its store, what waits to be sent or is at work, halts, breakers and pauses."""
    from supervisor.cli.heal import ask

    ask("tree", None, _show_tree, STATUS_S)
