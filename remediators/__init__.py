"""Hands: runbooks, their steps, and the executor that runs each intent at most once (DESIGN §2.3, §5)."""
