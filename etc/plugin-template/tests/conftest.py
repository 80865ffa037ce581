"""What a step is given, and what a channel is: made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from remediators.base import Context
from supervisor.config import Config
from supervisor.incidents.model import Channel, Execution, OutboxRow, Target, Tier


@pytest.fixture
def context(tmp_path: Path) -> Callable[[Config, Target], Context]:
    def make(config: Config, target: Target) -> Context:
        execution = mock.Mock(spec=Execution, target=target)
        nobody = mock.AsyncMock(side_effect=AssertionError("a plugin's step asks nobody"))
        return Context(execution, mock.Mock(), tmp_path, frozenset(), config, nobody, nobody)

    return make


@pytest.fixture
def message() -> OutboxRow:
    return OutboxRow("out_1", None, (), Channel("webhook"), Tier.ASK, "approval", "action", "subject", "body", 0.0)
