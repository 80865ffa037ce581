"""The last page: sent by a one-shot process when the core has given up and there is no healer, store or notifier.

It needs nothing but the configuration: no ledger, no bus. It tries each Signal transport once and never twice,
and waits for a program that it has started.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from supervisor import clock
from supervisor.config import Config
from supervisor.errors import HealError
from supervisor.notifier import paged
from supervisor.notifier.channel import DeliveryError
from supervisor.notifier.signal_cli import SignalCli

log = logging.getLogger(__name__)

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


def page_once(config: Config, text: str, folder: Path) -> None:
    """The same, but not again within the hour for what has the same first line: systemd starts a daemon again and
    again that gives up each time. `folder` remembers; where it cannot, each is sent. Raises PageFailed."""
    key = text.partition("\n")[0]
    if (before_s := paged.before_s(folder, key, clock.wall_s())) is not None:
        log.warning("paged for this %.0f minutes ago, not again within the hour", before_s / 60)
        return
    page(config, text)
    try:
        paged.note(folder, key, clock.wall_s())
    except OSError as error:
        log.warning("%s: %s: the page was sent, and may be sent again", folder, error.strerror)


async def _page(config: Config, text: str) -> None:
    channel = SignalCli(config.notify.signal)
    try:
        await channel.send(text, key=KEY)
    except DeliveryError:
        if await channel.settle(KEY, SETTLE_S) is None:
            raise
    finally:
        await channel.close()
