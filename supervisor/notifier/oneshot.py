"""The last page: sent by a one-shot process when the core has given up and there is no healer, store or notifier.

It needs nothing but the configuration: no ledger, no bus. It tries each Signal transport once and never twice,
and waits for a program that it has started.
"""

from __future__ import annotations

import asyncio

from supervisor.config import Config
from supervisor.errors import HealError
from supervisor.notifier.channel import DeliveryError
from supervisor.notifier.signal_cli import SignalCli

KEY = "oneshot"
SETTLE_S = 8.0  # with the attempt, less than the root allows its pager (`kernel.PAGER_WITHIN_S`)


class PageFailed(HealError):
    """Nobody was reached: every Signal transport failed."""

    code = "page_failed"


def page(config: Config, text: str) -> None:
    """Sends `text` over Signal: 10 s for the whole chain, and some more for a program that it started.

    Raises PageFailed with every transport's reason.
    """
    try:
        asyncio.run(_page(config, text))
    except DeliveryError as error:
        raise PageFailed(f"the last page could not be sent: {error}", "check [notify.signal] and the daemon") from error


async def _page(config: Config, text: str) -> None:
    channel = SignalCli(config.notify.signal)
    try:
        await channel.send(text, key=KEY)
    except DeliveryError:
        if await channel.settle(KEY, SETTLE_S) is None:
            raise
    finally:
        await channel.close()
