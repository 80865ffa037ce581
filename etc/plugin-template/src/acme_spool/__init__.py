"""Spool folders for healctl: a probe, a step and a channel."""
