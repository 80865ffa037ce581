"""Harnesses shared by tests."""
