"""What each tab shows: its columns, and how one row of it reads. Pure but for the time of day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from tui import look, model
from tui.rows import Column

Json = dict[str, Any]
Cells = Sequence[Text]

INCIDENTS = (
    Column("", 2),
    Column("TARGET", 0),
    Column("WHAT", 20),
    Column("STATE", 20),
    Column("RUNBOOK", 22, from_width=100),
    Column("TIER", 4, from_width=90),
    Column("AGE", 5),
)
TREE = (
    Column("PART", 0),
    Column("STATE", 13),
    Column("PID", 8),
    Column("RESTARTS", 8),
    Column("MEMORY", 10),
    Column("CPU", 6),
    Column("SINCE", 5),
    Column("LAST EXIT", 24, from_width=100),
)
RUNBOOKS = (
    Column("RUNBOOK", 0),
    Column("MODE", 12),
    Column("CONF", 5),
    Column("OK", 4),
    Column("BAD", 4),
    Column("DRY", 4),
    Column("LAST RUN", 16),
    Column("LABEL", 32, from_width=110),
)
TARGETS = (
    Column("", 2),
    Column("TARGET", 0),
    Column("FAMILY", 9),
    Column("NOW", 12),
    Column("TREND", 16, from_width=78),
    Column("TOOK", 9),
    Column("LAST", 5),
    Column("NEXT", 5),
    Column("FULL IN", 7, from_width=90),
)

NO_LAST_WORDS = "It left no last words."


def incident(row: Json, now_wall_s: float) -> Cells:
    tier = row.get("escalation_tier")
    mark = " *" if row.get("acknowledged_at") else ""
    return (
        look.severity(row["severity"]),
        Text(look.plain(row["target_id"]) + mark),
        Text(look.plain(row["anomaly_type"])),
        look.state(row["state"]),
        Text(look.plain(row.get("runbook_id"))),
        Text(f"T{tier}" if tier is not None else "-"),
        Text(look.span(model.age_s(row, now_wall_s))),
    )


def top(known: model.Model, order: str, width: int, *, read_only: bool) -> Text:
    """One line: how much is open, what waits for a person, what is held back; `order` is that of the list. Where all
    of it has no room, severities are their symbols alone."""
    text = _top(known, order, read_only=read_only, in_words=True)
    return text if text.cell_len <= width else _top(known, order, read_only=read_only, in_words=False)


def _top(known: model.Model, order: str, *, read_only: bool, in_words: bool) -> Text:
    text = Text()
    text.append("read-only  " if read_only else "", "yellow")
    if not known.known:
        text.append("nothing is known yet", "bold yellow")
        return text
    counts = known.counts()
    total = len(known.incidents)
    text.append(f"{total} open", "bold red" if total else "bold green")
    for word, (symbol, style) in look.SEVERITY.items():
        if counts[word]:
            text.append(f"  {symbol.strip()} {counts[word]}{f' {word}' if in_words else ''}", style)
    if counts["waiting"]:
        text.append(f"  @ {counts['waiting']} wait for you", "bold yellow")
    for halt in known.halted:
        text.append(f"  {look.plain(halt['database'])} is halted", "bold red")
    if known.at_work:
        text.append(f"  > {len(known.at_work)} at work", "cyan")
    if known.paused:
        text.append(f"  {len(known.paused)} paused", "yellow")
    text.append(f"  {order}", "dim")
    return text


def at_work(told: Json) -> str:
    """How far it is with what takes long."""
    from supervisor.cli.output import working  # most of it is not the dashboard's, whose first screen waits

    return f"> {working(told)}"


def below(row: Json | None, known: model.Model) -> Text:
    """What there is to know of the incident under the cursor, in three lines."""
    if row is None:
        if not known.known:
            return look.words("Whether anything is broken is not known yet.", "yellow")
        return look.words("" if known.incidents else "Nothing is broken, as far as healctl can see.", "green")
    text = Text()
    text.append(look.plain(row.get("evidence") or row.get("note")), "bold")
    text.append("\n" + look.plain(row.get("note")))
    if (told := known.progress(row["target_id"], row.get("execution_id"))) is not None:
        text.append(f"\n{at_work(told)}", "bold cyan")
        return text
    waits = row.get("waiting_for") or row.get("hint")
    text.append("\n" + (look.plain(waits) if waits else ""), "yellow")
    return text


def below_child(row: Json) -> Text:
    """How it ended last, and the end of what it said then."""
    words = str(row.get("last_words") or NO_LAST_WORDS).splitlines()[-2:]
    return Text("\n".join(look.plain(line) for line in (f"Last exit: {row.get('last_exit') or '-'}", *words)))


def below_target(row: Json | None, told: Json | None) -> Text:
    """What is wrong with it, what is at work on it, and when it is full, for which a narrow screen has no column."""
    if row is None:
        return Text("")
    said = row["error"] or row["anomaly"]
    text = look.words(look.plain(said) if said else "", "yellow")
    text.append(f"\n{at_work(told)}" if told is not None else "", "bold cyan")
    if row["full_in_s"] is not None:
        text.append(f"\nfull in {look.span(row['full_in_s'])}, if it goes on like this")
    return text


def child(row: Json, usage: dict[int, tuple[int, float]], now_wall_s: float) -> Cells:
    bytes_used, cpu = usage.get(row.get("pid") or 0, (0, 0.0))
    since_s = row.get("since_wall_s") or look.wall_s(row.get("since"))
    return (
        Text(look.plain(row["name"])),
        look.child(row.get("state", "")),
        Text(look.plain(row.get("pid"))),
        Text(str(row.get("restarts", 0)), "yellow" if row.get("restarts") else ""),
        Text(look.size(bytes_used) if bytes_used else "-"),
        Text(f"{cpu:.1f}%" if bytes_used else "-"),
        Text(look.span(now_wall_s - since_s if since_s else None)),
        Text(look.plain(row.get("last_exit"))),
    )


def runbook(row: Json) -> Cells:
    own = [scope["mode"] for scope in row.get("targets", ())]
    mode = row["mode"] + (" +" if any(word != row["mode"] for word in own) else "")
    return (
        Text(look.plain(row["id"])),
        Text(mode, "green" if row["mode"] == "auto_execute" else ""),
        Text(f"{row['confidence']:.2f}"),
        Text(str(row["successes"])),
        Text(str(row["failures"]), "red" if row["failures"] else ""),
        Text(str(row["dry_run_count"])),
        Text(look.clock_text(row["last_executed_at"])),
        Text(look.plain(row["label"])),
    )


def runbook_text(row: Json) -> Text:
    """All of one runbook: what it does, for what it may run by itself, and how that went."""
    text = look.lines(
        (
            ("What it is for", ", ".join(row["applies_to"])),
            ("Mode", row["mode"]),
            ("Confidence", f"{row['confidence']:.2f}"),
            ("Verified", f"{row['successes']} good, {row['failures']} failed"),
            ("Success rate, lower bound", row["success_rate_lower_bound"]),
            ("Author", row["author"]),
            ("Version", row["version"][:12]),
            ("Approved", look.clock_text(row["approved_at"])),
        )
    )
    text.append("Steps:\n", "dim")
    for number, step in enumerate(row["steps"], 1):
        text.append(f"  {number}. {look.plain(step['step_id'])}  ")
        text.append(f"({step['effect']})\n", "red" if step["effect"] == "destroy" else "dim")
    for scope in row["targets"]:
        text.append(f"{look.plain(scope['target_id'])}: {scope['mode']}, {scope['successes']} good, ", "")
        text.append(f"{scope['failures']} failed, {scope['dry_run_count']} dry runs\n")
    return text


def target(row: Json, now_wall_s: float) -> Cells:
    if row["anomaly"]:
        mark = Text("! ", "bold red")
    elif not row["available"]:
        mark = Text("? ", "yellow")
    else:
        mark = Text("+ ", "green")
    taken_s = look.wall_s(row["taken_at"])
    ago_s = None if taken_s is None else now_wall_s - taken_s
    due_s = None if ago_s is None or row["every_s"] is None else max(0.0, row["every_s"] - ago_s)
    return (
        mark,
        Text(look.plain(row["target_id"])),
        Text(look.plain(row["family"])),
        Text(look.figure(row["value"], row["unit"]) if row["available"] else "unavailable"),
        Text(look.spark(row["trend"], 16)),
        Text(f"{row['took_ms']:.1f} ms"),
        Text(look.span(ago_s)),
        Text(look.span(due_s)),
        Text(look.span(row["full_in_s"])),
    )
