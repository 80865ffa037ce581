"""What signal-cli receives, and which of it is a reply: the shapes of 0.13, and everything that is none (R15)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import SignalSection
from supervisor.incidents.orders import SignalReply
from supervisor.notifier.envelopes import Malformed, read
from supervisor.notifier.streams import LINE_BYTES_MAX, Splitter
from tests.doubles.signal_received import ACCOUNT, ANNA, message, received, text, uuid_of

SIGNAL = SignalSection(transports=("http://127.0.0.1:1",), account=ACCOUNT, recipient=ANNA, approvers=(ANNA,))
STRANGER = "+15559999"
GROUP = {"groupInfo": {"groupId": "Z3JvdXA=", "type": "DELIVER"}}
SENT = {"destination": ACCOUNT, "destinationNumber": ACCOUNT, "destinationUuid": uuid_of(ACCOUNT)}


def of(params: dict[str, Any], signal: SignalSection = SIGNAL, **more: Any) -> SignalReply | None:
    return read(msgspec.json.encode(params), msgspec.structs.replace(signal, **more))


@pytest.mark.req("FR-005", "R15")
def test_an_approvers_message_is_a_reply_with_what_it_quotes() -> None:
    assert of(text("run", 7, 5)) == SignalReply(uuid_of(ANNA), ANNA, 7, "run", 5)
    assert of({"subscription": 0, "result": text("run", 7)}) == SignalReply(uuid_of(ANNA), ANNA, 7, "run")
    foreign = received({"dataMessage": message("run", 7, 5, author=STRANGER)})
    assert (found := of(foreign)) is not None
    assert found.quote_ms == -1, "a message of somebody else, with the same time"


@pytest.mark.req("R15")
def test_who_sent_it_is_told_by_number_and_uuid_and_by_nothing_else() -> None:
    for more in ({"sourceName": ANNA}, {"source": ANNA}, {"source": ANNA, "sourceName": ANNA, "sourceDevice": 1}):
        found = of(received({"dataMessage": message("run", 7)}, STRANGER, **more))
        assert found == SignalReply(STRANGER, "", 7), "a stranger's words are not passed on"
    hidden = received({"dataMessage": message("run", 7)}, None, sourceUuid=uuid_of(ANNA))
    assert (unknown := of(hidden)) is not None
    assert unknown.person == ""
    named = of(hidden, approvers=(uuid_of(ANNA),))
    assert named == SignalReply(uuid_of(ANNA), uuid_of(ANNA), 7, "run")
    both = (ANNA, uuid_of(ANNA))
    first, again = of(text("run", 7), approvers=both), of(hidden, approvers=both)
    assert first is not None
    assert again is not None
    assert first.key == again.key, "one message, whether or not its number is told"


NOTHING = {
    "receipt": {"receiptMessage": {"when": 1, "isDelivery": True, "timestamps": [5]}},
    "typing": {"typingMessage": {"action": "STARTED", "timestamp": 7}},
    "reaction": {"dataMessage": message(None, 7, reaction={"emoji": "👍", "targetSentTimestamp": 5})},
    "reaction with words": {"dataMessage": message("run", 7, reaction={"emoji": "👍"})},
    "edit": {"editMessage": {"targetSentTimestamp": 5, "dataMessage": message("run", 7)}},
    "edit beside": {"editMessage": {"targetSentTimestamp": 5}, "dataMessage": message("run", 7)},
    "delete": {"dataMessage": message(None, 7, remoteDelete={"timestamp": 5})},
    "story": {"dataMessage": message("run", 7, storyContext={"authorNumber": ACCOUNT, "sentTimestamp": 5})},
    "expiration": {"dataMessage": message(None, 7, isExpirationUpdate=True)},
    "empty": {"dataMessage": message("", 7)},
    "no time": {"dataMessage": message("run", 0)},
    "group": {"dataMessage": message("run", 7, **GROUP)},
    "call": {"callMessage": {}},
    "nothing": {},
    "read elsewhere": {"syncMessage": {"readMessages": []}},
    "sent elsewhere": {"syncMessage": {"sentMessage": {**SENT, **message("run", 7)}}},
}


@pytest.mark.req("R15")
@pytest.mark.parametrize("name", NOTHING)
def test_everything_else_is_nothing_to_us(name: str) -> None:
    assert of(received(NOTHING[name])) is None
    assert of(received(NOTHING[name], STRANGER)) is None or name == ""


@pytest.mark.req("R15")
def test_of_a_group_only_approvers_in_the_one_that_is_paged_are_heard() -> None:
    said = received({"dataMessage": message("run", 7, **GROUP)})
    ours = of(said, recipient="group:Z3JvdXA=")
    assert ours is not None
    assert ours.in_group
    assert of(said, recipient="group:b3RoZXI=") is None
    assert of(received({"dataMessage": message("run", 7, **GROUP)}, STRANGER), recipient="group:Z3JvdXA=") is None


@pytest.mark.req("R15")
def test_what_our_own_other_devices_send_counts_only_as_a_note_to_self_of_an_approver() -> None:
    note = received({"syncMessage": {"sentMessage": {**SENT, **message("ok", 7)}}}, ACCOUNT)
    assert of(note) is None
    mine = of(note, approvers=(ACCOUNT,))
    assert mine is not None
    assert mine.own
    to_other = {**SENT, "destinationNumber": STRANGER, "destinationUuid": uuid_of(STRANGER)}
    elsewhere = received({"syncMessage": {"sentMessage": {**to_other, **message("ok", 7)}}}, ACCOUNT)
    assert of(elsewhere, approvers=(ACCOUNT,)) is None


@pytest.mark.req("R15")
def test_another_accounts_messages_and_undecipherable_ones_are_not_ours() -> None:
    assert of(text("run", 7, account=STRANGER)) is None
    assert of({**text("run", 7), "exception": {"message": "untrusted", "type": "X"}}) is None


@pytest.mark.req("R15")
@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.sampled_from(["envelope", "dataMessage", "timestamp", "message", "quote", "id",
        "result", "syncMessage", "sentMessage", "sourceNumber", "groupInfo"]), inner, max_size=4), max_leaves=12,
).map(msgspec.json.encode))  # fmt: skip
def test_whatever_comes_is_a_strangers_or_nothing_and_never_raises_anything_else(raw: bytes) -> None:
    try:
        found = read(raw, SIGNAL)
    except Malformed:
        return
    assert found is None or found.person == ""


@pytest.mark.req("R15")
@given(st.lists(st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")), max_size=6), st.integers(1, 30))
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], size: int) -> None:
    whole = b"".join(line + b"\n" for line in lines)
    splitter = Splitter()
    found = [line for at in range(0, len(whole), size) for line in splitter.feed(whole[at : at + size])]
    assert found == [line.removesuffix(b"\r") for line in lines]


@pytest.mark.req("R15")
def test_a_line_without_an_end_is_left_out_and_the_next_is_read() -> None:
    splitter = Splitter()
    for _ in range(4):
        assert splitter.feed(b"x" * LINE_BYTES_MAX) == []
    assert splitter.feed(b"end\nnext\n") == [b"next"]
    assert splitter.left_out == 1
