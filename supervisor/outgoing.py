"""Rows on their way from the healer to who delivers them, a limited number at once.

After a restart every row that waits goes out in one decision, and many thousands may wait where nobody can be paged.
The bus refuses what is too much, which would end the healer, and end it again at each start. The rows are safe
meanwhile: they stand in the ledger.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable

from supervisor.bus import Hub
from supervisor.config import Config
from supervisor.incidents.model import OURS, Channel, OutboxRow
from supervisor.messages import Body, Deliver
from supervisor.targets import channels

NOTIFIER = "notifier"
AT_ONCE_MAX = 1_500  # of each tier, so that pages wait only for pages; together fewer than the notifier keeps
PLUGINS_AT_ONCE_MAX = 100  # of each tier to the worker of a plugin's channel: ten that are down do not fill the bus


class Outgoing:
    """To the notifier, or to the worker of a plugin's channel: what one of them does not take delays no other's."""

    def __init__(self, hub: Hub, config: Callable[[], Config]) -> None:
        self._hub = hub
        self._config = config
        self._rows: defaultdict[tuple[str, int], deque[OutboxRow]] = defaultdict(deque)
        self._under_way: defaultdict[tuple[str, int], set[asyncio.Future[Body]]] = defaultdict(set)

    def add(self, row: OutboxRow) -> None:
        if row.channel is Channel.SYNAPSE and self._config().notify.synapse.transport == "brain_db":
            return  # the store's
        key = (NOTIFIER if row.channel in OURS else str(row.channel), int(row.tier))
        self._rows[key].append(row)
        self._send(key)

    def _send(self, key: tuple[str, int]) -> None:
        rows = self._rows[key]
        at_once_max = AT_ONCE_MAX if key[0] == NOTIFIER else PLUGINS_AT_ONCE_MAX
        while rows and len(self._under_way[key]) < at_once_max:
            asked = self._hub.request(key[0], Deliver(rows.popleft()))
            self._under_way[key].add(asked)
            asked.add_done_callback(lambda answer: self._taken(key, answer))

    def _taken(self, key: tuple[str, int], answer: asyncio.Future[Body]) -> None:
        self._under_way[key].discard(answer)
        if not answer.cancelled():  # as they are at the end
            self._send(key)

    def reconfigured(self) -> None:
        """What waits for a channel that no plugin brings any more is withdrawn (`own.withdraw`): should the channel
        come back, it must not be told what was so in its absence."""
        known = {NOTIFIER, *channels(self._config())}
        for key in [key for key in self._rows if key[0] not in known]:
            del self._rows[key]
            for asked in self._under_way.pop(key, set()):
                asked.cancel()
