"""The channel of a plugin, kept to its contract: no receipt that it did not give, an end to every attempt.

It lives in a worker of its own, which imports it: whatever it does there, Signal and Synapse are not delayed.
"""

from __future__ import annotations

import asyncio

from supervisor import plugins
from supervisor.config import Config
from supervisor.incidents.model import OutboxRow
from supervisor.notifier.channel import ATTEMPT_S, Channel, DeliveryError, Permanent, Receipt, Retryable, Unsure

RECEIPT_CHARS_MAX = 200
CLOSE_S = 1.0


class PluginChannel(Channel):
    def __init__(self, name: str, config: Config) -> None:
        """Raises BadPlugin."""
        self._piece = config.piece[name]
        self._inner = plugins.load(self._piece, Channel)(config)  # type: ignore[type-abstract, call-arg]

    async def deliver(self, row: OutboxRow) -> Receipt:
        try:
            async with asyncio.timeout(ATTEMPT_S) as deadline:
                receipt = await self._inner.deliver(row)
        except DeliveryError:
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                raise Unsure(f"{self._piece.words}: no answer within {ATTEMPT_S:g} s") from error
            raise Retryable(f"{self._piece.words}: {plugins.told(error)}") from error
        if not isinstance(receipt, str) or not receipt.strip() or not receipt.isprintable():
            raise Permanent(f"{self._piece.words}: it gave {str(receipt)[:80]!r}, which is no receipt")
        return Receipt(f"{row.channel}:{receipt[:RECEIPT_CHARS_MAX]}")

    async def close(self) -> None:
        async with asyncio.timeout(CLOSE_S):
            await self._inner.close()
