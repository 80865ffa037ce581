"""The last page: sent by a one-shot process when the core has given up and there is no healer, store or notifier.

It needs nothing but the configuration: no ledger, no bus. It tries each Signal transport once and never twice.
"""

from __future__ import annotations

import asyncio

from supervisor.config import Config
from supervisor.errors import HealError
from supervisor.notifier.channel import DeliveryError
from supervisor.notifier.signal_cli import SignalCli


class PageFailed(HealError):
    """Nobody was reached: every Signal transport failed."""

    code = "page_failed"


def page(config: Config, text: str) -> None:
    """Sends `text` over Signal, 10 s at most for each transport. Raises PageFailed with every transport's reason."""
    try:
        asyncio.run(_page(config, text))
    except DeliveryError as error:
        raise PageFailed(f"the last page could not be sent: {error}", "check [notify.signal] and the daemon") from error


async def _page(config: Config, text: str) -> None:
    channel = SignalCli(config.notify.signal)
    try:
        await channel.send(text, key="oneshot")
    finally:
        await channel.close()
