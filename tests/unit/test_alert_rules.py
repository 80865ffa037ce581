"""etc/prometheus: promtool judges the alert rules, and every name in them is a metric that healctl shows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests import parts
from tests.lab.engine import Lab
from tests.unit.test_metering import shown

RULES = Path(__file__).parents[2] / "etc/prometheus/healctl.rules.yml"

pytestmark = pytest.mark.req("FR-008")


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [str(parts.promtool()), *words]
    return subprocess.run(argv, cwd=RULES.parent, capture_output=True, text=True, timeout=60, check=False)


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", RULES.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{RULES.read_text().count('- alert:')} rules found" in done.stdout


def test_each_alert_fires_on_its_trouble_and_none_on_a_well_healctl() -> None:
    done = promtool("test", "rules", "healctl.rules.test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    cases = (RULES.parent / "healctl.rules.test.yml").read_text()
    for name in re.findall(r"- alert: (\w+)", RULES.read_text()):
        assert f'alertname="{name}"' in cases, f"{name} is in no test"


def test_every_metric_of_the_rules_is_shown() -> None:
    lab = Lab("web")
    names = {family.name + ("_total" if family.kind == "counter" else "") for family in shown(lab).values()}
    used = set(re.findall(r"\b(heal_\w+)", RULES.read_text()))
    assert used <= names | {name.removesuffix("_total") for name in names}, used - names
