"""How a Synapse message of ours is known: its id is derived from its outbox row's, which its metadata names (SITE.md).

So the store can write it again without doubling it, and a probe can tell it from what others write. Its thread's id is
derived from the incident: approval, page, outcome, closing and notes stand together, by brain.db and by REST alike.
"""

from __future__ import annotations

import hashlib

from supervisor.incidents.model import OutboxRow


def message_id(row_id: str) -> str:
    """`syn_` + 12 hex digits, always the same for an outbox row."""
    return f"syn_{_digest(row_id)}"


def thread_id(row: OutboxRow) -> str:
    """`thr_` + 12 hex digits: one thread for each incident.

    A message about several incidents has the thread of exactly that group (in whatever order they are named): it would
    be missed in all but one of theirs. A message about none has a thread of its own.
    """
    about = "+".join(sorted(row.covers)) if is_group(row) else row.incident_id
    return f"thr_{_digest(about or row.id)}"


def is_group(row: OutboxRow) -> bool:
    """It speaks of several incidents."""
    return len(row.covers) > 1


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
