"""What Synapse's REST side makes memory rows of (SITE.md) is in nothing that we tell it, wherever it came from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.synapse_text import harmless

# As the site looks for them: in the body's lower case, anywhere.
LOOKED_FOR = (
    "@remember", "@insight", "@decision", "@atom",
    "causes", "leads to", "results in", "triggers", "because", "therefore",
)  # fmt: skip
PIECES = (
    *LOOKED_FOR, *map(str.upper, LOOKED_FOR),
    "@", "be", "cause", "since", "leads", "to", "in", "·", " ", "-", ".", "`", "\n", "ſ", "İ", "ı",
    "trıggers", "TRİGGERS",
)  # fmt: skip


@pytest.mark.req("FR-005", "NFR-003")
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join))
def test_nothing_that_is_looked_for_is_left_and_said_twice_it_is_the_same(text: str) -> None:
    told = harmless(text)
    assert [word for word in LOOKED_FOR if word in told.lower()] == []
    assert harmless(told) == told


@pytest.mark.req("NFR-003")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("It ends because the pid is gone.", "It ends since the pid is gone."),
        ("a full disk causes this; it leads to that", "a full disk brings about this; it ends in that"),
        ("rb-gc-trigger ran, `healctl heal undo exe_1`", "rb-gc-trigger ran, `healctl heal undo exe_1`"),
        ("svc-because-1 is down", "svc-b·ecause-1 is down"),
        ("`--target because`", "`--target b·ecause`"),
        ("/var/log/triggers.log", "/var/log/t·riggers.log"),
        ("@Remember | @atom a", "(at)Remember | (at)atom a"),
        ("it tr\u0131ggers this, it TR\u0130GGERS that, becau\u017fe", "it sets off this, it sets off that, since"),
    ],
)
def test_a_sentence_is_said_otherwise_and_a_name_is_seen_to_be_broken(text: str, told: str) -> None:
    assert harmless(text) == told
