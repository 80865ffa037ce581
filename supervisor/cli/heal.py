"""`healctl heal ...`: the actions of `cortex_heal` (FR-007), with the site's JSON (SITE.md) and tables for people."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click
import msgspec

from supervisor.cli import output
from supervisor.cli.options import duration_s, settings, with_output

if TYPE_CHECKING:
    from pathlib import Path

HISTORY_S = 60.0
ACT_S = 3 * 3600.0  # an execution's steps and its verification take as long as their own limits allow
PLAN_S = 30.0
DECISIONS_MAX = 5  # of which the choices are shown

Answer = dict[str, Any]


def ask(
    action: str,
    args: dict[str, Any] | None,
    show: Callable[[Answer], None],
    deadline_s: float = 10.0,
    works_on: str | None = None,
) -> Answer:
    """Asks the daemon and shows the answer, as JSON or by `show`. `works_on`: it works for that long on this target
    (empty: on one that only it knows), and how far it is is shown meanwhile."""
    from supervisor.cli.client import Control

    chosen = settings()
    runtime_dir = chosen.dirs().runtime_dir
    with Control(runtime_dir) as control, nullcontext() if works_on is None else _waiting(runtime_dir, works_on):
        body = control.ask(action, args, deadline_s, chosen.actor)
    answer: Answer = msgspec.json.decode(body)
    if chosen.json:
        output.show_json(body)
    else:
        show(answer)
    return answer


def _waiting(runtime_dir: Path, target_id: str) -> AbstractContextManager[None]:
    from supervisor.cli.waiting import waiting

    return waiting(runtime_dir, target_id)


class Actions(click.Group):
    """`list_runbooks` and `list-runbooks` are one command (DESIGN §6)."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name.replace("-", "_"))


@click.group(
    cls=Actions,
    epilog="""\b
Examples:
  healctl heal status
  healctl heal dry_run rb-restart-service --target web
  healctl heal execute rb-restart-service --target web --confirm
  healctl heal status --json | jq .open_incidents
""",
)
@click.option("--agent", metavar="NAME", help="An agent asks: what it may not do by itself becomes a request to you.")
def heal(agent: str | None) -> None:
    """Incidents and runbooks. Names may be written with _ or -."""
    if agent is not None:
        settings().actor = f"agent:{agent}"


def _show_decisions(incidents: list[Answer]) -> None:
    """What is yours to decide, and the commands for it; of many, where to read it."""
    for incident in incidents[:DECISIONS_MAX]:
        lead, *choices = incident["decide"].splitlines()
        output.say(f"{output.plain(incident['target_id'])}: {output.plain(lead)}")
        for choice in choices:
            output.say(f"  {output.plain(choice)}")
    if (left := len(incidents) - DECISIONS_MAX) > 0:
        output.say(f"{left} more wait for you: healctl heal status --json | jq -r '.open_incidents[].decide'")


def _show_status(answer: Answer) -> None:
    incidents = answer["open_incidents"]
    if not incidents:
        output.say("No open incidents.")
    else:
        names = ("id", "target_id", "anomaly_type", "severity", "state", "runbook_id", "escalation_tier")
        rows = [[*(i.get(n) for n in names), output.local_time(i.get("detected_at"))] for i in incidents]
        output.table(("INCIDENT", "TARGET", "ANOMALY", "SEVERITY", "STATE", "RUNBOOK", "TIER", "SINCE"), rows)
        for incident in incidents:
            if trail := incident.get("audit_trail"):
                output.say(f"{output.plain(incident['id'])}: {output.plain(trail[-1].get('note'))}")
        _show_decisions([incident for incident in incidents if incident.get("decide")])
    for halt in answer.get("halted", ()):
        output.say(output.halted(halt))
    for pause in answer.get("paused", ()):
        output.say(output.paused(pause))
    for told in answer.get("at_work", ()):
        output.say(f"At work: {output.working(told)}")
    summary = answer["runbook_summary"]
    output.say(f"Runbooks: {summary['total']} ({summary['auto_execute']} auto_execute, {summary['dry_run']} dry_run)")


@heal.command(epilog="\b\nExample:\n  healctl heal status -o table")
@with_output
def status() -> None:
    """Show all open incidents with their state and progress."""
    ask("status", None, _show_status)


def _show_runbooks(answer: Answer) -> None:
    rows = [
        (
            r["id"],
            r["mode"],
            f"{r['confidence']:.2f}",
            r["dry_run_count"],
            ",".join(r["applies_to"]),
            output.local_time(r["last_executed_at"]),
            r["author"],
            r["label"],
        )
        for r in answer["runbooks"]
    ]
    output.table(("RUNBOOK", "MODE", "CONFIDENCE", "DRY RUNS", "APPLIES TO", "LAST EXECUTED", "AUTHOR", "LABEL"), rows)


@heal.command("list_runbooks", epilog="\b\nExample:\n  healctl heal list-runbooks")
@with_output
def list_runbooks() -> None:
    """Show all runbooks, shipped and your own, with mode, confidence, last use and author."""
    ask("list_runbooks", None, _show_runbooks)


def _show_asked(answer: Answer) -> bool:
    """R15: an agent's order that waits for a person."""
    if answer.get("pending"):
        output.say(f"{output.plain(answer['request_id'])}: {output.plain(answer['next_step'])}")
    return bool(answer.get("pending"))


def _show_approved(answer: Answer) -> None:
    if _show_asked(answer):
        return
    when = answer.get("approved_at")
    since = f", approved at {output.local_time(when)}" if when else ""
    where = f" for {output.plain(answer['target_id'])}" if answer.get("target_id") else ""
    output.say(f"{output.plain(answer['runbook_id'])} is now {output.state(answer['mode'])}{where}{since}")
    if running := answer.get("running_for"):
        output.say(f"It runs now for {', '.join(map(output.plain, running))}: healctl heal status shows how it goes")


@heal.command(
    epilog="\b\nExamples:\n  healctl heal approve rb-restart-service --target web\n"
    "  healctl heal approve rb-restart-service --revoke"
)
@click.argument("runbook")
@click.option("--target", metavar="T", help="Only for this target (default: for all).")
@click.option("--revoke", is_flag=True, help="Take the approval back.")
@with_output
def approve(runbook: str, target: str | None, revoke: bool) -> None:
    """Let RUNBOOK run by itself; incidents that wait for it go on at once."""
    args: dict[str, Any] = {"runbook_id": runbook}
    if target:
        args["target_id"] = target
    if revoke:
        args["revoke"] = True
    ask("approve", args, _show_approved)


def show_plan(answer: Answer) -> None:
    output.say(
        f"{output.plain(answer['runbook_id'])} for {output.plain(answer['target_id'])} ({answer['mode']}) would:"
    )
    for number, step in enumerate(answer["steps"], 1):
        output.say(f"  {number}. {output.plain(step['description'])}")
    output.say(f"Impact: {output.plain(answer['estimated_impact'])}")


def show_history(answer: Answer) -> None:
    names = ("incidents", "would_act", "would_resolve", "outcome_unknown", "healed_before", "acted_on_healthy")
    rows = [("all", *(answer[n] for n in names))]
    rows += [(target["target_id"], *(target[n] for n in names)) for target in answer["targets"]]
    since = output.local_time(answer["since"])
    output.say(f"{output.plain(answer['runbook_id'])} since {since}, had it been approved:")
    output.table(("TARGET", "INCIDENTS", "ACTS", "RESOLVES", "UNKNOWN", "HEALED BEFORE", "HEALTHY TOUCHED"), rows)
    output.say(
        f"Resolves: {answer['ran_and_verified']} ran and were verified, {answer['predicted_by_dry_run']} by dry run. "
        f"Grounds not recorded: {answer['grounds_unknown']}."
    )
    for what in answer["passed_over"]:
        output.say(f"Not read: {output.plain(what)}")


@heal.command(
    "dry_run",
    epilog="\b\nExamples:\n  healctl heal dry_run rb-restart-service --target web\n"
    "  healctl heal dry_run rb-restart-service --history --since 30d",
)
@click.argument("runbook")
@click.option("--target", metavar="T", help="The target to plan for; with --history, only its incidents.")
@click.option("--history", is_flag=True, help="Replay recorded incidents: where it would have acted, and helped.")
@click.option("--since", default="30d", show_default=True, metavar="D", help="How far back, with --history.")
@with_output
def dry_run(runbook: str, target: str | None, history: bool, since: str) -> None:
    """Show what RUNBOOK would do, or would have done; changes nothing."""
    from supervisor.errors import UsageError
    from supervisor.units import DURATION_FORM, parse_duration

    if history:
        since_s = parse_duration(since)
        if not since_s:
            raise click.BadParameter(f"found {since!r}, expected {DURATION_FORM}", param_hint="--since")
        args: Answer = {"runbook_id": runbook, "since_s": float(since_s)} | ({"target_id": target} if target else {})
        ask("history", args, show_history, HISTORY_S)
    elif target is None:
        raise UsageError("dry_run needs --target", "or --history, for what it would have done")
    else:
        ask("dry_run", {"runbook_id": runbook, "target_id": target}, show_plan, PLAN_S)


def _show_execution(answer: Answer) -> None:
    if _show_asked(answer):
        return
    for step in answer["steps_executed"]:
        output.say(f"{output.plain(step['step_id'])}: {output.state(step['status'])} ({step['duration_ms']:.0f} ms)")
        for line in str(step.get("output") or "").splitlines():
            output.say(f"  {output.plain(line)}")
    verified = {True: "yes", False: "no", None: "nothing to verify"}[answer["verification_passed"]]
    output.say(f"Verified: {verified}. Needs you: {'yes' if answer['escalation_needed'] else 'no'}.")


@heal.command(epilog="\b\nExample:\n  healctl heal execute rb-restart-service --target web --confirm")
@click.argument("runbook")
@click.option("--target", required=True, metavar="T", help="The target to act on.")
@click.option("--confirm", is_flag=True, help="Really do it; refused (exit 5) without.")
@with_output
def execute(runbook: str, target: str, confirm: bool) -> int:
    """Run RUNBOOK now, anomaly or not: it may end a live process first. Exit 1 unless it was verified."""
    args = {"runbook_id": runbook, "target_id": target, "confirm": confirm}
    return 0 if ask("execute", args, _show_execution, ACT_S, works_on=target)["success"] else 1


def which(answer: Answer) -> str:
    """The incident that an answer is about, so that whoever named its target sees what it was."""
    incident, target = output.plain(answer["incident_id"]), answer.get("target_id")
    return f"{output.plain(target)} ({output.plain(answer['anomaly_type'])}, {incident})" if target else incident


def _show_dismissed(answer: Answer) -> None:
    until = output.local_time(answer["dismiss_until"])
    output.say(f"{which(answer)} is dismissed; it stays quiet until {until}")


@heal.command(epilog='\b\nExample:\n  healctl heal dismiss inc-01 --reason "maintenance until tonight"')
@click.argument("incident")
@click.option("--reason", required=True, metavar="R", help="Why; kept in the audit trail.")
@click.option("--for", "span", metavar="DURATION", help="How long, e.g. 4h (default: `[policy] dismiss_window`).")
@with_output
def dismiss(incident: str, reason: str, span: str | None) -> None:
    """Close INCIDENT as not worth acting on, and keep quiet about it for a while.

    INCIDENT is an id, or the name of a target that has one open incident only.
    """
    args: dict[str, Any] = {"incident_id": incident, "reason": reason}
    if span is not None:
        args["for_s"] = duration_s(span, "--for")
    ask("dismiss", args, _show_dismissed)


@heal.command(epilog="\b\nExample:\n  healctl heal undo exe_3f2a91c0d4e7")
@click.argument("execution")
@with_output
def undo(execution: str) -> int:
    """Take back what EXECUTION did, its last step first, if it has left what that needs.

    Each step looks first whether what is there is still what it had left; if not, nothing is touched. The runbook then
    runs for this target by itself no more, until you approve it again.
    """
    return 0 if ask("undo", {"execution_id": execution}, _show_execution, ACT_S, works_on="")["success"] else 1


def _show_cancelled(answer: Answer) -> None:
    text = f"{output.plain(answer['what'])} on {output.plain(answer['target_id'])} is being stopped."
    output.say(f"{text} What it has done is told by `healctl heal status` and in its trail.")


@heal.command(
    epilog="""\b
Examples:
  healctl heal cancel disk:/var
  healctl heal cancel exe_3f2a91c0d4e7
  healctl heal cancel brain-db        # its integrity check, when no repair is at work on it
  healctl heal cancel healctl:drill   # the drill that is under way

\b
Exit codes: 0 it was told to stop; 1 it cannot be stopped (any more), or nothing is at work; 4 nothing has that name.
"""
)
@click.argument("what", metavar="ID")
@with_output
def cancel(what: str) -> None:
    """Stop what is at work: ID is an execution, an incident, a target or a drill.

    The step ends where nothing is half done, removes what it had begun, and says what it has done. Its incident is then
    yours, as after a step that failed; nothing else is tried by itself. What is all or nothing goes on: a service's
    restart, and a restore once it has begun to write. An integrity check begins again by its schedule. A drill has then
    neither passed nor failed, and what of it has not left is withdrawn.
    """
    ask("cancel", {"id": what}, _show_cancelled)


def _show_marked(answer: Answer) -> None:
    told = {"fine": "what healctl did was fine", "should_not_have": "healctl should not have acted"}
    output.say(f"{output.plain(answer['incident_id'])}: {told[answer['verdict']]}. `healctl report` counts it.")


@heal.command(
    epilog="\b\nExamples:\n  healctl heal mark inc_1f2e should-not-have --note 'it was being deployed'\n"
    "  healctl heal mark inc_1f2e fine"
)
@click.argument("incident")
@click.argument("verdict", type=click.Choice(["should-not-have", "fine"]))
@click.option("--note", default="", metavar="N", help="Why; kept in the audit and in the trail.")
@with_output
def mark(incident: str, verdict: str, note: str) -> None:
    """Say of INCIDENT, however old, that healctl should not have acted, or (taking that back) that it was fine.

    `healctl report` counts what was done for a marked incident as a false action. It takes nothing back: `heal undo`
    does, and `heal approve --revoke` keeps a runbook from running again.
    """
    args = {"incident_id": incident, "verdict": verdict.replace("-", "_"), "note": note}
    ask("mark", args, _show_marked, HISTORY_S)


def _show_recorded(answer: Answer) -> None:
    draft = f"{output.plain(answer['draft_runbook_id'])} ({output.state(answer['draft_runbook_mode'])})"
    kinds = ", ".join(output.plain(step["kind"]) for step in answer["steps"])
    output.say(f"Recorded. Draft {draft}: {kinds}")
    output.say(f"Next: {output.plain(answer['next_step'])}")


@heal.command(
    "record_fix",
    epilog="\b\nExample:\n  healctl heal record_fix inc_1f2e --description 'the cache had filled up' "
    "--command 'systemctl restart web'",
)
@click.argument("incident")
@click.option("--description", required=True, metavar="D", help="What was wrong, and what you did.")
@click.option(
    "--command", "commands", multiple=True, metavar="ARGV", help="A command you ran; may be given repeatedly."
)
@with_output
def record_fix(incident: str, description: str, commands: tuple[str, ...]) -> None:
    """Record how you fixed INCIDENT, open or just closed: it becomes the draft of a runbook, in dry_run.

    A command that healctl knows (the restart of a declared service, a declared command) becomes a registered step;
    what it does not know becomes a note, never something that is run. Secrets are taken out before anything is kept.
    """
    from supervisor.incidents.matching import split

    argvs = [argv for text in commands for argv in split(text)]
    ask("record_fix", {"incident_id": incident, "description": description, "commands": argvs}, _show_recorded, PLAN_S)


def _show_requests(answer: Answer) -> None:
    rows = [
        (it["code"], it["what"], it["asked_by"], output.local_time(it["asked_at"]), output.local_time(it["expires_at"]))
        for it in answer["requests"]
    ]
    output.table(("CODE", "WHAT", "ASKED BY", "AT", "EXPIRES"), rows)


@heal.command(epilog="\b\nExample:\n  healctl heal requests")
@with_output
def requests() -> None:
    """Show what agents have asked for, with the codes that confirm it."""
    ask("requests", None, _show_requests)


def _show_confirmed(answer: Answer) -> None:
    (_show_execution if "steps_executed" in answer else _show_approved)(answer)


@heal.command(epilog="\b\nExample:\n  healctl heal confirm K7RW2M")
@click.argument("code")
@with_output
def confirm(code: str) -> int:
    """Do what an agent has asked for under CODE: good once, for a day, and for that version of the runbook."""
    return 0 if ask("confirm", {"code": code}, _show_confirmed, ACT_S, works_on="")["success"] else 1
