"""The error classes: every failure that a user can meet is a `FedllmError` whose text says what to do."""


class FedllmError(Exception):
    """The base class of all errors that fedllm raises. The text is one line for the user."""

    exit_code = 1


class ConfigError(FedllmError):
    """A configuration is invalid, or two of its settings contradict each other."""

    exit_code = 2


class MissingExtraError(FedllmError):
    """A command needs an extra of the package that is not installed; the text names it."""


class DataError(FedllmError):
    """Data is missing, changed, or does not match its description."""


class ModelError(FedllmError):
    """A base model or an adapter is missing, or is not the one requested."""


class UntrustedVersionError(ModelError):
    """The files of a registered version are not those that its coordinator signed; none of them is used."""


class TrainingError(FedllmError):
    """Local training failed: for example, the loss is not finite or the adapter did not change."""


class IdentityError(FedllmError):
    """A key, card or invitation is missing, unreadable or not for this party."""


class ExchangeError(FedllmError):
    """A request to the store failed."""


class ObjectNotFoundError(ExchangeError):
    """The store has no object under the key."""


class AccessDeniedError(ExchangeError):
    """The store denies this party access to the key."""


class VoidKeysError(AccessDeniedError):
    """The store does not know these access keys: they were replaced, or their user was removed."""


class RefusedError(FedllmError):
    """A message or a payload was not accepted; the text is the reason that is recorded."""

    kind = "refused"  # its name among the security events


class ReplayError(RefusedError):
    """A number that only rises has fallen: a replay, a store rolled back, or a deposed coordinator."""

    kind = "replay"


class EquivocationError(RefusedError):
    """A party signed two different messages where only one is allowed."""

    kind = "equivocation"


class QuotaError(RefusedError):
    """A party has more objects or bytes than its quota allows."""

    kind = "quota"


class BudgetError(RefusedError):
    """The privacy budget does not cover a training or one of its steps."""

    kind = "budget"


class LedgerError(RefusedError):
    """A privacy ledger is damaged, edited, forked or rolled back; no training uses it."""

    kind = "ledger"


class RoundError(FedllmError):
    """A round cannot be completed, for example because it has fewer sites than `min_sites`."""


class LedBeforeError(RoundError):
    """A journal newer than this restored one led this round; its number cannot be reused."""


class LeaseError(FedllmError):
    """Another coordinator leads this federation."""


class CancelledError(FedllmError):
    """The run was cancelled."""


class InterruptedRunError(FedllmError):
    """Ctrl-C ended a run in this terminal; the text says how to resume it."""

    exit_code = 130


class StackError(FedllmError):
    """A server of the local stack did not start, answer or stop."""


class TrackingError(FedllmError):
    """MLflow did not answer, or has no such version."""


class ReviewError(FedllmError):
    """A version does not become champion, or a decision is not possible; the text says why."""


class RecordRefusedError(TrackingError):
    """MLflow refused a request, and would refuse it again."""


class JournalError(FedllmError):
    """The journal's database does not answer, or lost the connection; no partial write is on record."""


class BackupError(FedllmError):
    """An archive cannot be written, read or restored, or is not valid."""


class DiskFullError(FedllmError):
    """A disk is full; nothing is lost, and the command can go on once there is space."""
