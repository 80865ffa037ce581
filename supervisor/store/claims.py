"""Who runs an execution: the first that asks while it may still begin. One statement decides: there is never a second.

The same incarnation may ask again, since its answer may have been lost.
"""

from __future__ import annotations

import sqlite3

from supervisor import proc
from supervisor.clock import monotonic_s
from supervisor.messages import Claim, ClaimAnswer


def take(connection: sqlite3.Connection, request: Claim) -> ClaimAnswer:
    """Inside the ledger's transaction."""
    cursor = connection.execute(
        "UPDATE executions SET state = 'claimed', claimed_by = ?"
        " WHERE id = ? AND state = 'intended' AND boot_id = ? AND expires_mono_s > ?",
        (request.incarnation, request.execution_id, proc.this_boot(), monotonic_s()),
    )
    if cursor.rowcount == 1:
        return ClaimAnswer(True)
    row = connection.execute(
        "SELECT state, claimed_by, boot_id FROM executions WHERE id = ?", (request.execution_id,)
    ).fetchone()
    if row is None:
        return ClaimAnswer(False, "no such execution")
    state, claimed_by, boot_id = row
    if state == "claimed" and claimed_by == request.incarnation:
        return ClaimAnswer(True)
    if state == "claimed":
        return ClaimAnswer(False, "another executor has claimed it")
    if state != "intended":
        return ClaimAnswer(False, f"it is {state}")
    return ClaimAnswer(False, "it expired" if boot_id == proc.this_boot() else "it was meant for an earlier boot")
