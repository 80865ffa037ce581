"""The last word of a tree that gave up: one page, from a one-shot child, by whatever the notifier room offers."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from supervisor.config import Config
from supervisor.worker import settle_in

log = logging.getLogger(__name__)

ONESHOT = "supervisor.notifier.oneshot"  # page(config, text), and page_once(config, text, folder)
NAME = "pager"

Pager = Callable[[str], None]


def by_name(config: Config, folder: Path | None) -> Pager:
    """The notifier's one-shot page, looked up only when it is needed: the root stays free of it.

    `folder`: where it is remembered what was paged, since whoever started us will do so again; None: nobody will, and
    each page may be the last that is heard of us.
    """
    return partial(_page, config, folder)


def _page(config: Config, folder: Path | None, text: str) -> None:
    room = importlib.import_module(ONESHOT)
    text = f"{text}\n(on {config.escalation.host or socket.gethostname()})"
    if folder is None:
        room.page(config, text)
    else:
        room.page_once(config, text, folder)


def main(pager: Pager, text: str, root_pid: int, level: str, uplink: socket.socket, output: int) -> NoReturn:
    """The whole life of the one-shot child; exit 0 when the page was accepted."""
    code = 1
    try:
        settle_in(NAME, root_pid, uplink.fileno(), output, level)
        pager(text)
        code = 0
    except BaseException:
        log.exception("nobody was paged")
    finally:
        sys.stderr.flush()
        os._exit(code)
