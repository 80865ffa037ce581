"""Named points at which a test may kill this process (DESIGN §8, "crash boundaries").

`HEALCTL_TEST_CRASH=WORKER:POINT:TOKENFILE` kills `WORKER` with SIGKILL the first time it reaches `POINT`: whoever can
remove the token file dies, so a restarted worker goes on. With `:stop` behind it, it is stopped there instead, until
the test lets it go on. Without the variable `reach` does nothing.
"""

from __future__ import annotations

import os
import signal

POINTS = frozenset(
    {
        "commit.before", "commit.after", "ack.before", "ack.after",  # store
        "decide.before", "decide.after", "dispatch.before", "dispatch.after", "publish.before",  # healer
        "claim.before", "claim.after", "program.before", "program.recorded", "program.released",  # executor
        "evidence.after", "program.ended", "result.before", "result.after",
        "send.before", "send.after", "receipt.before", "receipt.after",  # notifier
        "project.before", "project.after",  # store, its projections
        "guarded.before", "guarded.after",  # store, a guarded write
        "raw.file", "raw.after", "backup.page", "backup.copied", "backup.verified", "backup.renamed",  # backup
        "backup.after",
        "restore.kept", "restore.chosen", "restore.page", "restore.after",  # restore
        "restore.cleared", "restore.written", "restore.header",
        "rotate.member", "rotate.written", "rotate.pending", "rotate.taken",  # rotate-logs
        "rotate.freed", "rotate.after", "prune.before",
    }
)  # fmt: skip

_spec = os.environ.get("HEALCTL_TEST_CRASH", "")
_me = ""


def i_am(worker: str) -> None:
    """Called once by a worker when it starts; a point counts only in the worker that is named."""
    global _me
    _me = worker


def reach(point: str) -> None:
    """Dies here if the test says so."""
    if not _spec:
        return
    assert point in POINTS, point
    worker, wanted, token, *how = _spec.split(":", 3)
    if worker != _me or wanted != point:
        return
    try:
        os.unlink(token)
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGSTOP if how == ["stop"] else signal.SIGKILL)
