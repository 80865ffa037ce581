"""Rows on their way from the healer to the notifier, a limited number at once.

After a restart every row that waits goes out in one decision, and many thousands may wait where nobody can be paged.
The bus refuses what is too much, which would end the healer, and end it again at each start. The rows are safe
meanwhile: they stand in the ledger.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable

from supervisor.bus import Hub
from supervisor.config import Config
from supervisor.incidents.model import Channel, OutboxRow
from supervisor.messages import Body, Deliver

AT_ONCE_MAX = 1_500  # of each tier, so that pages wait only for pages; together fewer than the notifier keeps


class Outgoing:
    def __init__(self, hub: Hub, config: Callable[[], Config]) -> None:
        self._hub = hub
        self._config = config
        self._rows: defaultdict[int, deque[OutboxRow]] = defaultdict(deque)
        self._under_way: Counter[int] = Counter()

    def add(self, row: OutboxRow) -> None:
        if row.channel is Channel.SIGNAL or self._config().notify.synapse.transport != "brain_db":  # else the store's
            self._rows[row.tier].append(row)
            self._send(row.tier)

    def _send(self, tier: int) -> None:
        rows = self._rows[tier]
        while rows and self._under_way[tier] < AT_ONCE_MAX:
            self._under_way[tier] += 1
            self._hub.request("notifier", Deliver(rows.popleft())).add_done_callback(
                lambda answer: self._taken(tier, answer)
            )

    def _taken(self, tier: int, answer: asyncio.Future[Body]) -> None:
        self._under_way[tier] -= 1
        if not answer.cancelled():  # as they are at the end
            self._send(tier)
