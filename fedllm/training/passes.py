"""Passes in which an example's gradient is the same to the bit, whoever else was drawn.

A clip bounds what one unit adds to a sum. That all others add what they add without it takes a second thing,
which padding to the longest and kernels that look at the number of rows both break: in bf16 others' gradients
moved by up to 3.5 % of the clip. Here the shape of an example's pass is its own, and public, but for the
number of rows; that neither this number nor the place among them changes a bit is tried before the first step
on the machine at hand. Where the number does, it is the same in every pass: copies fill it up, and their
gradients are thrown away. Where that does not help, nothing is trained.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fedllm.errors import TrainingError
from fedllm.training.learner import Learner, Shape
from fedllm.training.per_example import PerExample

_KNOWN: dict[tuple[Any, ...], bool] = {}  # by what a trial depends on: whether passes have to be full


class Passes:
    """Single gradients of any number of examples."""

    def __init__(self, learner: Learner, gradients: PerExample, engine: Any) -> None:  # noqa: ANN401 - untyped
        """Try made-up examples in different companies, once for each kind of model in a process.

        Args:
            learner: on its device.
            gradients: from `per_example_gradients`.
            engine: an Accelerator.

        Raises:
            TrainingError: gradients depend on the company in this precision, on this machine.
        """
        self._learner, self._gradients = learner, gradients
        shared, threads = learner.shared, torch.get_num_threads()
        kind = (
            type(learner),
            shared.frozen_sha256,
            shared.layout,
            engine.device,
            engine.mixed_precision,
            threads,
        )
        if kind not in _KNOWN:
            _KNOWN[kind] = self._must_be_full(engine.mixed_precision)
        self._full = _KNOWN[kind]

    def __call__(self, examples: Sequence[Any]) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Compute them pass by pass; an example's own order among those of its shape is kept.

        Yields:
            Indices of some examples, and for every shared tensor in order their gradients, (rows, *shape).
        """
        alike: dict[Shape, list[int]] = {}
        for index, example in enumerate(examples):
            alike.setdefault(self._learner.shape(example), []).append(index)
        for shape in sorted(alike):  # not in the order of the draw: a person's records are summed in this one
            rows = alike[shape]
            for start in range(0, len(rows), shape.most):
                part = rows[start : start + shape.most]
                yield part, self._pass([examples[i] for i in part], shape, full=self._full)

    def _pass(self, examples: Sequence[Any], shape: Shape, *, full: bool) -> list[torch.Tensor]:
        filled = [*examples, *[examples[0]] * (shape.most - len(examples))] if full else examples
        return [part[: len(examples)] for part in self._gradients(filled, shape.size)]

    def _must_be_full(self, precision: str) -> bool:
        """Whether the number of rows has to be the same in every pass. Raises `TrainingError`."""
        shared = self._learner.shared
        start = shared.read()
        moved = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
        shared.write(start + 0.02 * moved)  # an adapter begins at zero, where much of a gradient is zero too
        try:
            kinds = range(len(self._learner.trials(1)))
            for full in (False, True):
                if all(self._same_in_company(kind, full=full, many=kind == kinds[-1]) for kind in kinds):
                    return full
        finally:
            shared.write(start)
        other = "train on another device" if precision == "no" else "set local.precision: fp32"
        named = "fp32" if precision == "no" else precision
        raise TrainingError(
            f"gradients in {named} depend on this machine on the records beside them, so that no clip bounds "
            f"what one record changes: {other}"
        )

    def _same_in_company(self, kind: int, *, full: bool, many: bool) -> bool:
        """Whether a made-up example's gradient is the same alone and in companies of two, five or many."""
        most = self._learner.shape(self._learner.trials(1)[kind][0]).most
        seen: list[list[torch.Tensor]] = []
        for rows in (1, 2, 5, *([most] if many else [])):  # once is enough: it takes seconds
            examples = self._learner.trials(rows)[kind]
            place = len(examples) // 2
            examples[0], examples[place] = examples[place], examples[0]
            found = self._pass(examples, self._learner.shape(examples[0]), full=full)
            seen.append([part[place] for part in found])
        return all(torch.equal(one, first) for each in seen for one, first in zip(each, seen[0], strict=True))
