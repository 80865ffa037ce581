"""How a Synapse message of ours is known: its id is derived from its outbox row's, which its metadata names (SITE.md).

So the store can write it again without doubling it, and a probe can tell it from what others write.
"""

from __future__ import annotations

import hashlib


def message_id(row_id: str) -> str:
    """`syn_` + 12 hex digits, always the same for an outbox row."""
    return f"syn_{hashlib.sha256(row_id.encode()).hexdigest()[:12]}"
