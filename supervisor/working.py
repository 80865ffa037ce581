"""How far work is that takes long, and who stops it: what executor and probes tell the healer, and it them.

A part of `supervisor.messages`. A word about progress may be lost: the next one says more.
"""

from __future__ import annotations

import msgspec


class AtWork(msgspec.Struct, frozen=True, tag="at_work"):
    """Executor or probe -> healer, unacked, twice a second at most: `done` of `total` `unit`s of the `stage`.

    Of a step (`execution_id`), or of the integrity check of a target. `over`: no more will come of it. `final`: it can
    no longer be stopped.
    """

    target_id: str
    stage: str
    done: int = 0
    total: int = 0
    unit: str = ""
    execution_id: str = ""
    over: bool = False
    final: bool = False


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Healer -> executor (`execution_id`) or probe (`target_id`): stop it, in the name of `by`. Answered by Ack when it
    was told to, or Nack with the reason why it goes on."""

    by: str
    execution_id: str = ""
    target_id: str = ""
