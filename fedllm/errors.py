"""The one error tree: every failure a user can meet is a `FedllmError` that says what to do."""


class FedllmError(Exception):
    """Root of every error that fedllm raises on purpose. Its text is one line for the user."""

    exit_code = 1


class ConfigError(FedllmError):
    """A configuration that cannot mean anything, or two settings that do not fit together."""

    exit_code = 2


class MissingExtraError(FedllmError):
    """A command needs an extra of the package that is not installed; the text says which."""


class DataError(FedllmError):
    """Data that is absent, changed, or not what its description says."""


class ModelError(FedllmError):
    """A base model or an adapter that is absent or not the one that was asked for."""


class UntrustedVersionError(ModelError):
    """A registered version whose files are not those that its coordinator signed: none of them is used."""


class TrainingError(FedllmError):
    """Local training that went wrong: a loss that is not finite, an adapter that did not move."""


class IdentityError(FedllmError):
    """A key, card or invitation that is absent, unreadable or not for this party."""


class ExchangeError(FedllmError):
    """The store did not do what was asked of it."""


class ObjectNotFoundError(ExchangeError):
    """There is no object under the key."""


class AccessDeniedError(ExchangeError):
    """The store refused: this party may not touch the key."""


class VoidKeysError(AccessDeniedError):
    """The store does not know these keys: they were replaced, or their user was removed."""


class RefusedError(FedllmError):
    """A message or a payload that was not accepted; the text is the reason that goes on record."""

    kind = "refused"  # as the record of security events names it


class ReplayError(RefusedError):
    """A number that only rises fell: a replay, a store that was rolled back, or a zombie's word."""

    kind = "replay"


class EquivocationError(RefusedError):
    """One party signed two different things where there may be one."""

    kind = "equivocation"


class QuotaError(RefusedError):
    """More objects, or more bytes, than a party may have."""

    kind = "quota"


class BudgetError(RefusedError):
    """A training, or a step of one, that the privacy budget does not cover."""

    kind = "budget"


class LedgerError(RefusedError):
    """A ledger of privacy events that is torn, edited, forked or rolled back: nothing is trained on it."""

    kind = "ledger"


class RoundError(FedllmError):
    """A round that cannot be completed, such as one with fewer sites than `min_sites`."""


class LedBeforeError(RoundError):
    """A round that was led by a journal newer than this restored one: its number cannot be used again."""


class LeaseError(FedllmError):
    """Another coordinator leads this federation."""


class CancelledError(FedllmError):
    """The run was cancelled."""


class InterruptedRunError(FedllmError):
    """Ctrl-C ended a run in this terminal; the text says how to go on with it."""

    exit_code = 130


class StackError(FedllmError):
    """A server of the local stack did not start, answer or stop."""


class TrackingError(FedllmError):
    """MLflow did not answer or holds no such version."""


class ReviewError(FedllmError):
    """A version that does not become champion, or a decision that cannot be taken; the text says why."""


class RecordRefusedError(TrackingError):
    """MLflow answered, and refuses what it was given: the same again would be refused again."""


class JournalError(FedllmError):
    """The journal's database does not answer, or broke off: nothing half done is on record."""


class BackupError(FedllmError):
    """An archive that cannot be written, read or restored, or is not what it should be."""


class DiskFullError(FedllmError):
    """A disk has no room: nothing is lost, and what stopped goes on once there is space."""
