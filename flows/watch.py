"""Watch a flow's training in a thread: stop it when it is cancelled in Prefect, and send heartbeats."""

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
from fedllm.journal.runs import find_run
from fedllm.stack.automations import HEARTBEAT
from fedllm.text import one_line
from flows import events

log = logging.getLogger(__name__)

POLL = 2.0  # s between polls of the flow run's state
BEAT = 10.0  # s between heartbeats; Prefect's own come at most every 30 s
_CANCEL = {StateType.CANCELLING, StateType.CANCELLED}


@contextmanager
def watched(training: Training) -> Iterator[None]:
    """Stop the training when somebody cancels its flow run, and send heartbeats of its process.

    A worker sends SIGTERM to the process of a cancelled run, and also when the worker shuts down; the flow
    run's state distinguishes the two. After a shutdown the training can be resumed.

    Raises:
        CancelledError: The flow run was cancelled, and SIGTERM arrived before the training noticed.
    """
    over = threading.Event()
    # A copy of the flow's context holds Prefect's settings and the flow run of the heartbeats.
    thread = threading.Thread(
        target=copy_context().run, args=(_watch, training, over), name="watch", daemon=True
    )
    thread.start()
    try:
        yield
        _emit_end(training, events.TRAINING_COMPLETED)
    except TerminationSignal as signal:
        if not _is_cancelled(training):
            raise
        reason = _reason(training)
        training.stop(reason)
        try:
            close(training, "cancelled", str(reason))
        except (CancelledError, LeaseError) as error:
            log.info("%s is closed already: %s", training.run, error)
        _emit_end(training, events.TRAINING_CANCELLED)
        raise reason from signal
    except CancelledError:
        _emit_end(training, events.TRAINING_CANCELLED)
        raise
    except LeaseError:
        raise  # another coordinator leads and emits how the training ends
    except Exception as error:
        _emit_end(training, events.TRAINING_FAILED, one_line(str(error)))
        raise
    finally:
        over.set()
        thread.join(POLL)


def cancelled(error: CancelledError) -> dict[str, Any]:
    """Return the state that ends a flow as Cancelled; it raises `error` at the flow's caller."""
    return cast("dict[str, Any]", Cancelled(message=str(error), data=error))


def _reason(training: Training) -> CancelledError:
    return CancelledError(f"{training.run} was cancelled in Prefect; go on with --resume {training.run}")


def _watch(training: Training, over: threading.Event) -> None:
    """Poll and send heartbeats until the training is over or cancelled; ignore an unreachable Prefect."""
    last_beat = float("-inf")
    with get_client(sync_client=True) as client:
        while True:
            if time.monotonic() - last_beat >= BEAT:
                last_beat = time.monotonic()
                _beat(training)
            if over.wait(POLL):
                return
            if _state(client, training) in _CANCEL:
                log.warning("%s was cancelled in Prefect", training.run)
                training.stop(_reason(training))
                return


def _emit_end(training: Training, event: str, reason: str = "") -> None:
    """Emit how the training ended, from the journal. A failure here is only logged."""
    try:
        row = find_run(training.journal, training.run)
        rounds = played(training.journal, training.run)
        payload = {"reason": reason or (row.reason if row else ""), "rounds": rounds}
        events.emit_training_end(training, event, payload)
    except Exception as error:  # noqa: BLE001 - no failure here may change how the training ends
        log.warning("the end of %s could not be reported to Prefect: %s", training.run, error)


def _beat(training: Training) -> None:
    # A background thread sends it. Prefect's own heartbeat would cost a second at the flow's end.
    emit_event(HEARTBEAT, {"prefect.resource.id": f"prefect.flow-run.{training.prefect_flow_run}"})


def _state(client: SyncPrefectClient, training: Training) -> StateType | None:
    """Return the state of the training's flow run; None if Prefect does not answer."""
    try:
        state = client.read_flow_run(UUID(training.prefect_flow_run or "")).state
    except Exception as error:  # noqa: BLE001 - the training continues without an answer from Prefect
        log.debug("the flow run's state cannot be read: %s", error)
        return None
    return state.type if state else None


def _is_cancelled(training: Training) -> bool:
    with get_client(sync_client=True) as client:
        return _state(client, training) in _CANCEL
