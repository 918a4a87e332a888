"""Passes in which an example's gradient is the same to the bit, whichever other examples are drawn.

A clip bounds the term of one unit in a sum. Differential privacy also requires that the unit does not change
the terms of the others. Padding to the longest example and kernels that depend on the number of rows both
break this: in bf16 others' gradients moved by up to 3.5 % of the clip. Here an example alone determines the
shape of its pass, which is public, except for the number of rows. Before the first step, a trial on this
machine checks that neither the number of rows nor an example's place among them changes a bit. If the number
does, every pass is filled up to the same number with copies, whose gradients are discarded. If that does not
help, training is refused.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fedllm.errors import TrainingError
from fedllm.training.learner import Learner, Shape
from fedllm.training.per_example import PerExample

_MUST_BE_FULL: dict[tuple[Any, ...], bool] = {}  # trial results, by everything that a trial depends on


class Passes:
    """Per-example gradients of any number of examples."""

    def __init__(self, learner: Learner, gradients: PerExample, engine: Any) -> None:  # noqa: ANN401 - untyped
        """Try synthetic examples beside different others, once per kind of model in a process.

        Args:
            learner: on its device.
            gradients: from `per_example_gradients`.
            engine: an Accelerator.

        Raises:
            TrainingError: on this machine and in this precision, gradients depend on the other examples.
        """
        self._learner, self._gradients = learner, gradients
        shared, threads = learner.shared, torch.get_num_threads()
        key = (
            type(learner),
            shared.frozen_sha256,
            shared.layout,
            engine.device,
            engine.mixed_precision,
            threads,
        )
        if key not in _MUST_BE_FULL:
            _MUST_BE_FULL[key] = self._must_be_full(engine.mixed_precision)
        self._full = _MUST_BE_FULL[key]

    def __call__(self, examples: Sequence[Any]) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Compute gradients pass by pass; examples of one shape keep their order.

        Yields:
            Indices of a pass's examples, and for each shared tensor in order their gradients, (rows, *shape).
        """
        by_shape: dict[Shape, list[int]] = {}
        for index, example in enumerate(examples):
            by_shape.setdefault(self._learner.shape(example), []).append(index)
        for shape in sorted(by_shape):  # not in the order of the draw: a person's gradients are summed so
            rows = by_shape[shape]
            for start in range(0, len(rows), shape.most):
                part = rows[start : start + shape.most]
                yield part, self._pass([examples[i] for i in part], shape, full=self._full)

    def _pass(self, examples: Sequence[Any], shape: Shape, *, full: bool) -> list[torch.Tensor]:
        filled = [*examples, *[examples[0]] * (shape.most - len(examples))] if full else examples
        return [part[: len(examples)] for part in self._gradients(filled, shape.size)]

    def _must_be_full(self, precision: str) -> bool:
        """Return whether every pass needs the same number of rows. Raises `TrainingError`."""
        shared = self._learner.shared
        start = shared.read()
        moved = torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
        shared.write(start + 0.02 * moved)  # an adapter starts at zero, where much of a gradient is zero too
        try:
            kinds = range(len(self._learner.trials(1)))
            for full in (False, True):
                if all(self._same_beside_others(kind, full=full, many=kind == kinds[-1]) for kind in kinds):
                    return full
        finally:
            shared.write(start)
        other = "train on another device" if precision == "no" else "set local.precision: fp32"
        named = "fp32" if precision == "no" else precision
        raise TrainingError(
            f"on this machine a record's gradient in {named} depends on the others of its batch, so no clip "
            f"bounds what one record changes: {other}"
        )

    def _same_beside_others(self, kind: int, *, full: bool, many: bool) -> bool:
        """Return whether a synthetic example's gradient is equal in passes of 1, 2, 5 and many rows."""
        most = self._learner.shape(self._learner.trials(1)[kind][0]).most
        seen: list[list[torch.Tensor]] = []
        for rows in (1, 2, 5, *([most] if many else [])):  # many for one kind alone: it takes seconds
            examples = self._learner.trials(rows)[kind]
            place = len(examples) // 2
            examples[0], examples[place] = examples[place], examples[0]
            gradients = self._pass(examples, self._learner.shape(examples[0]), full=full)
            seen.append([part[place] for part in gradients])
        return all(torch.equal(one, first) for each in seen for one, first in zip(each, seen[0], strict=True))
