"""A person's verdict on what healctl did about an incident: it should not have, or it was fine (FR-006, R15). Pure.

A mark is a line of the audit, and stands in the trail of its incident; the newest of one incident counts
(`healctl report`: false actions). It changes nothing else: `heal undo` takes back what was done, and
`heal approve --revoke` keeps it from being done again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from supervisor import redact
from supervisor.errors import StoreError, UnknownId
from supervisor.incidents.effects import Answer, FindIncident
from supervisor.incidents.orders import MarkArgs, Verdict
from supervisor.incidents.records import AddLateTrail
from supervisor.incidents.views import Json

if TYPE_CHECKING:
    from supervisor.incidents.world import Turn

ACTION = "mark"  # in the audit
NOTE_CHARS_MAX = 500
_WORDS = {Verdict.SHOULD_NOT_HAVE: "healctl should not have acted", Verdict.FINE: "what healctl did was fine"}


def order(turn: Turn, token: str, args: MarkArgs, actor: str) -> None:
    """The ledger and the archives are asked whether there is such an incident, however old; `found` goes on."""
    turn.world.mark_asked.setdefault(args.incident_id, []).append((token, actor, args))
    turn.effects.append(FindIncident(args.incident_id))


def found(turn: Turn, incident_id: str, trouble: str, *, known: bool) -> None:
    """The store's answer to `order`: `known` False with a `trouble` means that it cannot tell."""
    for token, actor, args in turn.world.mark_asked.pop(incident_id, ()):
        if known:
            turn.effects.append(Answer(token, body=_mark(turn, token, args, actor)))
        else:
            hint = "`healctl audit` and the audit trails name them"
            error = StoreError(trouble) if trouble else UnknownId(f"no incident {incident_id!r}", hint)
            turn.effects.append(Answer(token, error=error))


def _mark(turn: Turn, token: str, args: MarkArgs, actor: str) -> Json:
    note = redact.text(args.note.strip()[:NOTE_CHARS_MAX])
    told = MarkArgs(args.incident_id, args.verdict, note)
    turn.audit(token, actor, ACTION, msgspec.json.encode(told).decode())
    words = f"{_WORDS[args.verdict]}{f': {note}' if note else ''}"
    incident = turn.incident(args.incident_id)
    if incident is not None:
        turn.note(incident, actor, words)
    else:
        turn.records.append(AddLateTrail(args.incident_id, turn.now.wall_s, actor, words, ""))
    return {"success": True, "incident_id": args.incident_id, "verdict": args.verdict.value, "note": note or None}
