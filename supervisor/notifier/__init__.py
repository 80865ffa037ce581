"""Reaching people: the outbox's worker and its channels. It decides nothing and never calls a message sent without a
receipt."""
