"""The pure core: what a reading means, what may be done about it, and what an incident does next.

Nothing here reads a clock, a file, the environment or randomness; times and events come in, decisions go out
(DESIGN §2.5). Imports: the standard library and msgspec only.
"""
