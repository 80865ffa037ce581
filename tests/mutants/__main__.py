"""`python -m tests.mutants [--json] [NAME...]`: the table of mutants, and what finds each of them out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import msgspec

from tests.mutants.kinds import Found, judged
from tests.mutants.table import MUTANTS


def line(found: Found) -> str:
    """One line of the table."""
    return f"{found.name:<66} | {found.by or 'SURVIVED':<80} | {found.after:<9} | {found.seconds:6.2f} s"


def run(names: list[str]) -> Iterator[Found]:
    """One after another, in the table's order."""
    return (judged(MUTANTS[name]) for name in names or MUTANTS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object for each, with its edits")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*MUTANTS, []], help="only these")
    wanted = parser.parse_args()
    survived = 0
    for found in run(wanted.names):
        survived += not found.by
        print(msgspec.json.encode(found).decode() if wanted.json else line(found), flush=True)
        if found.survived and not wanted.json:
            print("\n".join(f"    {text}" for text in (*found.edits, *found.survived.splitlines())), flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
