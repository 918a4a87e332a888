"""Beside a training that a flow runs: an eye on whether Prefect was told to cancel it, and its heartbeat."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, cast
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled

from fedllm.coordinator.progress import played
from fedllm.coordinator.rounds import close
from fedllm.coordinator.training import Training
from fedllm.errors import CancelledError, LeaseError
from fedllm.stack.automations import HEARTBEAT
from fedllm.text import one_line
from flows import events

log = logging.getLogger(__name__)

LOOK = 2.0  # s between looks at the flow run's state
BEAT = 10.0  # s between heartbeats; Prefect's own come every 30 s at the most often
_CANCEL = {StateType.CANCELLING, StateType.CANCELLED}


@contextmanager
def watched(training: Training) -> Iterator[None]:
    """Stop the training when somebody cancels its flow run, and show Prefect that its process lives.

    A worker ends the process of a cancelled run by SIGTERM, and does the same when it shuts down: the flow
    run's state tells the two apart. After a shutdown the training is left for a resume.

    Raises:
        CancelledError: the flow run was cancelled, and SIGTERM came before the training heard of it.
    """
    over = threading.Event()
    # In a copy of the flow's context: Prefect's settings, and whom the heartbeats are about.
    thread = threading.Thread(
        target=copy_context().run, args=(_watch, training, over), name="watch", daemon=True
    )
    thread.start()
    try:
        yield
        _tell_end(training, events.TRAINING_COMPLETED)
    except TerminationSignal as signal:
        if not _is_cancelled(training):
            raise
        reason = _reason(training)
        training.stop(reason)
        try:
            close(training, "cancelled", str(reason))
        except (CancelledError, LeaseError) as error:
            log.info("%s is closed already: %s", training.run, error)
        _tell_end(training, events.TRAINING_CANCELLED)
        raise reason from signal
    except CancelledError:
        _tell_end(training, events.TRAINING_CANCELLED)
        raise
    except LeaseError:
        raise  # another coordinator leads: how this training ends is for that one to tell
    except Exception as error:
        _tell_end(training, events.TRAINING_FAILED, one_line(str(error)))
        raise
    finally:
        over.set()
        thread.join(LOOK)


def cancelled(error: CancelledError) -> dict[str, Any]:
    """What a flow returns to end as Cancelled: a state, which raises `error` at the flow's caller."""
    return cast("dict[str, Any]", Cancelled(message=str(error), data=error))


def _reason(training: Training) -> CancelledError:
    return CancelledError(f"{training.run} was cancelled in Prefect; go on with --resume {training.run}")


def _watch(training: Training, over: threading.Event) -> None:
    """Look and beat until the training is over; a Prefect that is away is passed over."""
    beaten = float("-inf")
    with get_client(sync_client=True) as client:
        while True:
            if time.monotonic() - beaten >= BEAT:
                beaten = time.monotonic()
                _beat(training)
            if over.wait(LOOK):
                return
            if _state(client, training) in _CANCEL:
                log.warning("%s was cancelled in Prefect", training.run)
                training.stop(_reason(training))
                return


def _tell_end(training: Training, event: str, reason: str = "") -> None:
    """Tell Prefect how the training ended, as the journal has it. What goes wrong here changes nothing."""
    try:
        row = training.journal.run(training.run)
        rounds = played(training.journal, training.run)
        told = {"reason": reason or (row.reason if row else ""), "rounds": rounds}
        events.tell_of_training(training, event, told)
    except Exception as error:  # noqa: BLE001 - whatever kept it from being told
        log.warning("Prefect was not told how %s ended: %s", training.run, error)


def _beat(training: Training) -> None:
    # Sent from a queue in the background. Prefect's own heartbeat would cost a second at the flow's end.
    emit_event(HEARTBEAT, {"prefect.resource.id": f"prefect.flow-run.{training.prefect_flow_run}"})


def _state(client: SyncPrefectClient, training: Training) -> StateType | None:
    """The state of the training's flow run; None when Prefect cannot say."""
    try:
        found = client.read_flow_run(UUID(training.prefect_flow_run or "")).state
    except Exception as error:  # noqa: BLE001 - whatever keeps Prefect from answering, the training goes on
        log.debug("Prefect does not say how the flow run is: %s", error)
        return None
    return found.type if found else None


def _is_cancelled(training: Training) -> bool:
    with get_client(sync_client=True) as client:
        return _state(client, training) in _CANCEL
