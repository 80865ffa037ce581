"""Every requirement that a finished step claims is shown by a test whose name or marker says so (DESIGN §8)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEPS_DONE = 2
# Which step shows it first; a later step adds its tests to the same id, and raises STEPS_DONE.
STEP_OF = {
    "FR-001": 1, "FR-002": 1, "FR-003": 1, "FR-004": 1, "FR-005": 1, "FR-006": 4, "FR-007": 1, "FR-008": 1,
    "NFR-001": 1, "NFR-002": 1, "NFR-003": 1, "NFR-004": 2,
    "AC-001": 1, "AC-002": 4, "AC-003": 4, "AC-004": 4, "AC-005": 3, "AC-006": 4, "AC-007": 4, "AC-008": 4,
    "AC-009": 1, "AC-010": 1, "AC-011": 1,
    "R1": 1, "R2": 1, "R3": 1, "R4": 4, "R5": 1, "R6": 1, "R7": 1, "R8": 1, "R9": 1, "R10": 3, "R11": 1, "R12": 1,
    "R13": 4, "R14": 1, "R15": 1,
}  # fmt: skip
_IN_NAME = re.compile(r"(?:^|_)(nfr|fr|ac)_(\d{3})(?=_|$)")


def shown() -> dict[str, set[str]]:
    """requirement id -> the tests that show it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for requirement in _ids(node):
                    found.setdefault(requirement, set()).add(f"{path.name}::{node.name}")
    return found


def _ids(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> set[str]:
    ids = {f"{kind.upper()}-{number}" for kind, number in _IN_NAME.findall(node.name.lower())}
    for decorator in node.decorator_list:
        if (
            isinstance(decorator, ast.Call)
            and isinstance(decorator.func, ast.Attribute)
            and decorator.func.attr == "req"
        ):
            ids |= {argument.value for argument in decorator.args if isinstance(argument, ast.Constant)}
    return ids


def test_every_claimed_requirement_is_shown() -> None:
    found = shown()
    missing = [one for one, step in STEP_OF.items() if step <= STEPS_DONE and one not in found]
    assert missing == [], f"no test's name or @pytest.mark.req names {missing}"


def test_no_test_claims_a_requirement_that_does_not_exist() -> None:
    unknown = {one: tests for one, tests in shown().items() if one not in STEP_OF}
    assert unknown == {}
