"""What happened in the tree, in words for people. Pure."""

from __future__ import annotations

import signal

from supervisor.messages import TreeEvent, TreeKind


def line_of(event: TreeEvent) -> tuple[str, str, str]:
    """(level, name, text) of one tree event, for the log."""
    match event.kind:
        case TreeKind.STARTED:
            text = f"started, pid {event.pid}" + (f" (restart {event.restarts})" if event.restarts else "")
            level = "info"
        case TreeKind.READY:
            level, text = "info", "ready"
        case TreeKind.EXITED:
            text = f"pid {event.pid} ended: {event.exit_text}"
            if event.items:
                text += f"; in work: {', '.join(event.items)}"
            level = "error"
        case TreeKind.HUNG:
            level, text = "error", f"pid {event.pid} hangs: {event.exit_text}"
        case TreeKind.BACKOFF:
            level, text = "warning", f"next start in {event.delay_s:.2g} s"
        case TreeKind.QUARANTINED:
            again = f"tried again in {event.delay_s:g} s" if event.delay_s else "not started again"
            level, text = "error", f"quarantined ({event.exit_text}): {again}"
        case TreeKind.ITEM_QUARANTINED:
            level, text = "error", f"was in work when it died twice, quarantined: {', '.join(event.items)}"
        case TreeKind.STOPPED:
            level, text = "info", f"stopped ({event.exit_text})"
    return level, event.child, text


def exit_text(code: int) -> str:
    """`exit 1`, `killed by SIGKILL`."""
    if code >= 0:
        return f"exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
