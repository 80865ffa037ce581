"""`healctl demo`: a service dies, a disk fills, a database rots, and the real daemon heals them before your eyes.

Everything is real but the trouble's victims (a few lines of Python) and Signal (a local stand-in that keeps the text
instead of sending it). It must touch nothing outside its temporary directory, and leave no process and no file behind:
not on success, not on failure, not on Ctrl-C, not when it is killed.
"""

from __future__ import annotations

import signal
from types import FrameType

import click

from supervisor.cli.demo_acts import ACTS, Show, Teller
from supervisor.cli.demo_box import Sandbox
from supervisor.cli.options import settings
from supervisor.errors import HealError, Refused
from supervisor.notifier.rehearsal import Rehearsal


@click.command(
    epilog="""\b
Examples:
  healctl demo
  healctl demo --only database
  healctl demo --json | jq -c 'select(.kind == "result")'

\b
Exit codes: 0 everything that was broken was healed; 1 something was not, or the part of --only is not possible here;
  2 usage; 130 Ctrl-C: what was begun is removed.
"""
)
@click.option("--only", type=click.Choice(list(ACTS)), help="One of the three troubles.")
@click.option("--json", is_flag=True, help="One line of JSON for whatever happens, the last one a summary.")
def demo(only: str | None, json: bool) -> int:
    """Watch a service die, a disk fill and a database rot, and all of them be healed: about 15 seconds.

    The daemon, its probes and its repairs are the real ones; they work in a temporary directory, of which nothing is
    left. No root and no account is needed; the disk is left out where this user may mount nothing, not even in a
    namespace of its own. Where a repair waits for a person, the demo says what it would be and approves it for you.

    As JSON: {kind: begin|left_out|act|say|trail|page|result|summary, act, ...}; times are in milliseconds, since the
    trouble began.
    """
    settings().output = "json" if json else "table"
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    sandbox, teller = Sandbox(), Teller(json=json)
    try:
        _show(sandbox, teller, only)
    except HealError:
        sandbox.show_log()
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # what is begun here is finished
        sandbox.clear()
    teller.summary()
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """TERM and HUP end the demo as Ctrl-C does: through its cleaning up."""
    del number, frame
    raise KeyboardInterrupt


def _show(sandbox: Sandbox, teller: Teller, only: str | None) -> None:
    acts = [only] if only is not None else list(ACTS)
    if "disk" in acts and (why := sandbox.mount()):
        if only is not None:
            raise Refused(f"the disk cannot be shown here: {why}", "healctl demo shows the rest")
        acts.remove("disk")
        teller.leave_out("disk", why)
    teller.begin(sandbox.at)
    with Rehearsal() as rehearsal:
        sandbox.prepare(acts, rehearsal.url)
        Show(sandbox, rehearsal, teller).run(acts)
