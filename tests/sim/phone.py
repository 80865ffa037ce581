"""A person with a phone, and the signal-cli daemon between it and the notifier (ADR 0007).

What arrives, and what is answered: late, twice, to the wrong message, by somebody else. The notifier's own `Replies`
reads the envelopes that the daemon hands over; a daemon forgets a message once it was written to a connection, and
after a crash of its own it tells one again.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Any

import msgspec

from supervisor.http import ConnectFailed, ProtocolError
from supervisor.incidents.model import OutboxRow
from tests.doubles import signal_received
from tests.sim.faults import LATENCY_S
from tests.sim.loop import CURRENT
from tests.sim.site import ACCOUNT, ANNA, BERT

CALLER = "+10000000009"  # whom nobody knows
NAMES_HERSELF = "+10000000008"  # the same, under an approver's name
PEOPLE = {"anna": ANNA, "bert": BERT, "caller": "", "pretender": ""}  # and as whom each may answer
UNKNOWN_CODE = "ZZZZZ2"
_CODE = re.compile(r"\b(?:code|reply) ([2-9A-HJ-NP-Z]{6})\b")


class Page(msgspec.Struct, frozen=True):
    """A message that can be answered, as it arrived. `at_ms`: by which Signal knows it."""

    row: OutboxRow
    at_ms: int
    code: str


class Message(msgspec.Struct, frozen=True):
    """What somebody sent. `person`: the approver who it is. `quote_ms` 0: it quotes nothing, -1: nothing of ours."""

    key: str
    person: str
    at_ms: int
    word: str  # the first, as said
    code: str
    quote_ms: int


class Answer(msgspec.Struct, frozen=True):
    """What the schedule has a person do with a page. `by`: quote, code, both, or in which way it is wrong."""

    text: str
    by: str
    who: str
    ago_s: float  # so old is the message when it arrives
    again_s: float  # the daemon gives it again after so long; 0: once


class Stream:
    """One connection to the daemon, as `notifier.streams.received` gives it."""

    def __init__(self, phone: Phone, opened: asyncio.Event) -> None:
        self._phone, self._opened = phone, opened
        self._raw: deque[bytes] = deque()
        self._more: asyncio.Future[None] | None = None
        self._broken = False
        self.proc = CURRENT.get()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        if not self._opened.is_set():
            if self._phone.is_off():
                raise ConnectFailed("refused")
            self._opened.set()
            self._phone.connects(self)
        while not self._raw:
            if self._broken:
                raise ProtocolError("the event stream ended")
            self._more = asyncio.get_running_loop().create_future()
            await self._more
        return self._raw.popleft()

    async def aclose(self) -> None:
        self._phone.streams = [one for one in self._phone.streams if one is not self]

    def push(self, raw: bytes) -> None:
        self._raw.append(raw)
        self._wake()

    def ends(self) -> None:
        self._broken = True
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)


class Phone:
    """Everybody's phones, and the daemon."""

    def __init__(self, sim: Any) -> None:
        self._sim = sim
        self.streams: list[Stream] = []
        self._kept: list[bytes] = []  # for whoever connects next
        self.pages: list[Page] = []
        self._waiting: list[tuple[float, Answer]] = []  # for a page to come
        self._last_ms: dict[str, int] = {}
        self.wrong_s = 0.0  # so much is the machine's wall clock ahead of what time it is

    # -- the daemon --

    def is_off(self) -> bool:
        off: bool = self._sim.loop.time() < self._sim.phone_off_until_s
        return off

    def received(self, transport: object, account: str, opened: asyncio.Event) -> Stream:
        return Stream(self, opened)

    def connects(self, stream: Stream) -> None:
        self.streams = [one for one in self.streams if one.proc is not None and one.proc.alive]
        self.streams.append(stream)
        kept, self._kept = self._kept, []
        for raw in kept:
            self._hands(stream, raw)

    def goes_off(self) -> None:
        for stream in self.streams:
            if stream.proc is not None:
                self._sim.loop.call_soon(stream.ends, context=stream.proc.context)

    def _hands_over(self, raw: bytes) -> None:
        open_now = [one for one in self.streams if one.proc is not None and one.proc.alive]
        if self.is_off() or not open_now:
            self._kept.append(raw)
        else:
            self._hands(open_now[-1], raw)

    def _hands(self, stream: Stream, raw: bytes) -> None:
        assert stream.proc is not None
        self._sim.loop.call_later(LATENCY_S, stream.push, raw, context=stream.proc.context)

    def receipt(self, row: OutboxRow) -> str:
        """It has come. By the time at which it was sent Signal knows a message: this machine's clock says it."""
        at_ms = int(self._sim.loop.wall() * 1000)
        if row.offer_id:
            code = _CODE.search(row.body)
            self.pages.append(Page(row, at_ms, code[1] if code else ""))
            self._sim.watch.replies.arrived(self.pages[-1])
            waiting, self._waiting = self._waiting, []
            for after_s, answer in waiting:
                self._sim.later(after_s, self._says, self.pages[-1], answer)
        return f"signal:{at_ms} by the simulated daemon"

    # -- people --

    def decides(self, pick: int, after_s: float, answer: Answer) -> None:
        """To answer the so manieth page, the newest first, so much later; where none is there, the next to come."""
        if not self.pages:
            self._waiting.append((after_s, answer))
            return
        self._sim.later(after_s, self._says, self.pages[-1 - pick % len(self.pages)], answer)

    def _says(self, page: Page, answer: Answer) -> None:
        other = next((one for one in reversed(self.pages) if one.row.offer_id != page.row.offer_id), page)
        code = {
            "code": page.code, "both": page.code, "other": other.code, "crossed": other.code, "unknown": UNKNOWN_CODE,
        }.get(answer.by, "")  # fmt: skip
        quoted = {"quote": page.at_ms, "both": page.at_ms, "crossed": page.at_ms, "foreign": page.at_ms, "early": 1}
        quote_ms = quoted.get(answer.by, 0)
        at_ms = self._time_ms(answer)
        said = f"{answer.text} {code}".strip()
        body = signal_received.message(said, at_ms, quote_ms, CALLER if answer.by == "foreign" else ACCOUNT)
        raw, sender = self._envelope(answer.who, body)
        word = answer.text.partition(" ")[0]
        quote_ms = -1 if answer.by == "foreign" else quote_ms
        message = Message(f"{sender}:{at_ms}", PEOPLE[answer.who], at_ms, word, code, quote_ms)
        self._sim.watch.replies.said(message)
        self._hands_over(raw)
        if answer.again_s:
            self._sim.later(answer.again_s, self._hands_over, raw)

    def _time_ms(self, answer: Answer) -> int:
        """Of the phone's clock, which is right; no two of one phone have the same."""
        now_ms = int((self._sim.loop.wall() - self.wrong_s - answer.ago_s) * 1000)
        self._last_ms[answer.who] = at_ms = max(now_ms, self._last_ms.get(answer.who, 0) + 1)
        return at_ms

    def _envelope(self, who: str, body: dict[str, Any]) -> tuple[bytes, str]:
        """And by what the healer knows its sender."""
        data = {"dataMessage": body}
        match who:
            case "anna":
                found, sender = signal_received.received(data, ANNA, ACCOUNT), signal_received.uuid_of(ANNA)
            case "bert":  # his number is hidden
                found, sender = signal_received.received(data, None, ACCOUNT, sourceUuid=BERT), BERT
            case "pretender":
                found = signal_received.received(data, NAMES_HERSELF, ACCOUNT, sourceName=ANNA)
                sender = NAMES_HERSELF
            case _:
                found, sender = signal_received.received(data, CALLER, ACCOUNT), CALLER
        return msgspec.json.encode(found), sender
