"""Every error that a user of healctl can see: one base, one subclass per kind.

Each says what happened, where, and what to do next (`hint`). The exit codes are those of DESIGN §6; `code` is the
word that stands in JSON output, so that scripts need not read prose.
"""

from __future__ import annotations


class HealError(Exception):
    """Base of all errors shown to a user. `exit_code` is the process's exit status, `hint` the next step."""

    exit_code = 1
    code = "failed"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class Refused(HealError):
    """The daemon understood and will not do it (a fence, a lock, a breaker, a state that does not allow it)."""

    code = "refused"


class AlreadyRunning(HealError):
    """Another healctl holds this runtime directory."""

    code = "already_running"


class UsageError(HealError):
    """The command line or an argument is not of the right form."""

    exit_code = 2
    code = "usage"


class NotRunning(HealError):
    """No daemon answers in this runtime directory."""

    exit_code = 3
    code = "not_running"


class UnknownId(HealError):
    """An incident, runbook, target or execution of that name does not exist."""

    exit_code = 4
    code = "unknown_id"


class NeedsConfirm(HealError):
    """FR-007: `execute` changes the system, so it wants to be told twice."""

    exit_code = 5
    code = "needs_confirm"


class CoreGaveUp(HealError):
    """The store or the healer failed more often than its intensity allows (sysexits.h: EX_SOFTWARE)."""

    exit_code = 70
    code = "core_gave_up"


class ConfigError(HealError):
    """The configuration is wrong (sysexits.h: EX_CONFIG): file, line or key, what was found, what was expected."""

    exit_code = 78
    code = "bad_configuration"


class LedgerUnusable(ConfigError):
    """What stands in the ledger's place is not to be used by us, and no new start will change that."""

    code = "ledger_unusable"


class BusError(HealError):
    """A message cannot be sent: too large, or its queue is full."""

    code = "bus"


class StoreError(HealError):
    """The ledger refused or could not take a record."""

    code = "store"
