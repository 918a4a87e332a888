"""Do something just before or after a step of every training."""

from collections.abc import Callable
from typing import Any

import pytest

from fedllm.coordinator.steps import JournaledRunner, Step
from fedllm.coordinator.training import Training


def around(
    patch: pytest.MonkeyPatch,
    step: Step[Any],
    before: Callable[[Training, int], None] = lambda _training, _number: None,
    after: Callable[[Training, Any], None] = lambda _training, _done: None,
) -> None:
    """Call `before(training, number)` and `after(training, outcome)` around each run of a step."""
    run = JournaledRunner.run

    def wrapped(self: JournaledRunner, which: Step[Any], number: int, *rest: Any) -> Any:  # noqa: ANN401
        if which.name != step.name:
            return run(self, which, number, *rest)
        before(self.training, number)
        done = run(self, which, number, *rest)
        after(self.training, done)
        return done

    patch.setattr(JournaledRunner, "run", wrapped)
