"""One-time codes: made, recognised, looked up with a limit on guesses, and kept out of what agents read (R15). Pure."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from supervisor.errors import Refused, UnknownId

if TYPE_CHECKING:
    from supervisor.incidents.orders import Offer
    from supervisor.incidents.world import Turn, World

ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # nothing that could be read as something else
LENGTH = 6
WRONG_MAX, WRONG_WINDOW_S = 10, 600.0  # wrong codes, before none is taken for a while
# At least one letter and one digit: no word and no number of a sentence looks like one.
_LOOKS = re.compile(rf"(?=[A-Z2-9]*\d)(?=[A-Z2-9]*[A-Z])[{ALPHABET}]{{{LENGTH}}}")
_IN_TEXT = re.compile(rf"(?<![A-Za-z0-9])[{ALPHABET}]{{{LENGTH}}}(?![A-Za-z0-9])", re.IGNORECASE)
HIDDEN = "[code]"


def unused(world: World, secret: str) -> str:
    """A code that nothing else has, made of a text that nobody can guess."""
    taken = {offer.code for offer in world.requests.values()}
    n = 0
    while (code := _made(f"{secret}:{n}")) in taken or not looks(code):
        n += 1
    return code


def _made(secret: str) -> str:
    number = int.from_bytes(hashlib.sha256(secret.encode()).digest())
    out = []
    for _ in range(LENGTH):
        number, index = divmod(number, len(ALPHABET))
        out.append(ALPHABET[index])
    return "".join(out)


def looks(word: str) -> bool:
    """Could this be a code? In capitals."""
    return _LOOKS.fullmatch(word) is not None


def masked(text: str) -> str:
    """`text` without anything that could be one."""
    return _IN_TEXT.sub(lambda found: HIDDEN if looks(found[0].upper()) else found[0], text)


def find(turn: Turn, code: str, *, of_agent: bool | None = None) -> Offer:
    """What this code is for. Raises UnknownId for a wrong one, and Refused after too many of them."""
    world, now = turn.world, turn.now
    world.wrong_codes = [at for at in world.wrong_codes if at > now.steady_s - WRONG_WINDOW_S]
    if len(world.wrong_codes) >= WRONG_MAX:
        raise Refused(f"{WRONG_MAX} wrong codes in {WRONG_WINDOW_S / 60:.0f} minutes: none is taken for a while")
    wanted = code.strip().upper()
    for offer in world.requests.values():
        if offer.code and offer.code == wanted and of_agent in (None, offer.of_agent):
            return offer
    world.wrong_codes.append(now.steady_s)
    raise UnknownId("no request waits for that code", "it may be used or expired: `healctl heal requests`")
