"""What a reply may look like and what it then says; everything else says nothing (R15)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import UsageError
from supervisor.incidents import codes
from supervisor.incidents.reply_text import Said, Verb, parse

CODE = "K7QM2P"
H = 3600.0
UNDERSTOOD = {
    "ok": Said(Verb.OK),
    " OK!! ": Said(Verb.OK),
    "Ok 👍": Said(Verb.OK),
    "ok👍🏽": Said(Verb.OK),
    "ok ok": Said(Verb.OK),
    "\u201crun\u201d.": Said(Verb.RUN),
    "RUN k7qm2p": Said(Verb.RUN, CODE),
    "k7qm2p: run": Said(Verb.RUN, CODE),
    "\uff52\uff55\uff4e": Said(Verb.RUN),  # full width
    "approve\n\u200bK7QM2P\u200b": Said(Verb.APPROVE, CODE),
    "why?": Said(Verb.WHY),
    "undo": Said(Verb.UNDO),
    "K7QM2P": Said(None, CODE),
    "confirm K7QM2P": Said(Verb.CONFIRM, CODE),
    "dismiss": Said(Verb.DISMISS),
    "Dismiss 4h": Said(Verb.DISMISS, for_s=4 * H),
    "dismiss 1h30m, being moved": Said(Verb.DISMISS, for_s=1.5 * H, reason="being moved"),
    "dismiss planned: I will run it": Said(Verb.DISMISS, reason="planned: I will run it"),
    "dismiss 4h K7QM2P the server moved": Said(Verb.DISMISS, CODE, 4 * H, "the server moved"),
    "k7qm2p dismiss the server moved 👍": Said(Verb.DISMISS, CODE, None, "the server moved"),
    "dismiss the server moved k7qm2p": Said(Verb.DISMISS, CODE, None, "the server moved"),
}
NOT = (
    "", " ", "👍", "...", "run undo", "ok run", "run or approve", "please run", "run it", "do not run", "don't run",
    "yes", "no", "r u n", "running", "run K7QM2P X9YZ23", "run K7QM2", "run K7QM2PX", "dismiss run", "dismiss 4h undo",
    "ok dismiss 4h", "please dismiss", "run; rm -rf /", "run\x00undo", "ok " * 400, "\u202enur", "r\u200bun",
    "approve all",
)  # fmt: skip


@pytest.mark.req("R15")
@pytest.mark.parametrize("text", UNDERSTOOD)
def test_a_reply_is_understood_whatever_stands_around_its_words(text: str) -> None:
    assert parse(text) == UNDERSTOOD[text]


@pytest.mark.req("R15")
@pytest.mark.parametrize("text", NOT)
def test_what_is_not_one_clear_word_says_nothing(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(text)
    assert raised.value.message


@pytest.mark.req("R15")
@given(st.text(max_size=200))
def test_no_text_without_a_verb_of_its_own_is_an_order(text: str) -> None:
    try:
        said = parse(text)
    except UsageError:
        return
    words = "".join(ch if ch.isalnum() else " " for ch in text.casefold()).split()
    assert said.verb is None or any(said.verb in word for word in words) or not text.isascii()


@pytest.mark.req("R15")
@given(st.text(max_size=60), st.sampled_from(list(Verb)))
def test_a_word_more_never_makes_another_order_of_it(text: str, verb: Verb) -> None:
    try:
        said = parse(f"{verb} {text}")
    except UsageError:
        return
    assert said.verb is verb


@pytest.mark.req("R15")
@given(st.text(min_size=1))
def test_codes_look_like_codes_and_are_masked_wherever_they_stand(secret: str) -> None:
    class World:
        requests: dict[str, object] = {}  # noqa: RUF012

    code = codes.unused(World(), secret)  # type: ignore[arg-type]
    assert codes.looks(code)
    assert code not in codes.masked(f"run {code}, or ({code.lower()}).").upper()
    assert codes.masked("the SERVER of 123456 moved") == "the SERVER of 123456 moved"
