"""What the feed gives. Apart from it, so that a dashboard can draw itself before the bus is loaded."""

from __future__ import annotations

from typing import Any

import msgspec

from supervisor import clock

SNAPSHOT = "snapshot"


class Item(msgspec.Struct, frozen=True):
    """One event, or (`kind` "snapshot") all that is open. `data` has the field names of `heal status`."""

    seq: int
    kind: str
    at_wall_s: float
    data: dict[str, Any]

    def line(self) -> str:
        """As one line of JSON, for programs."""
        shown = {"seq": self.seq, "kind": self.kind, "at": clock.rfc3339(self.at_wall_s), "data": self.data}
        return msgspec.json.encode(shown).decode()
