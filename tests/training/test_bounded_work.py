"""What a plan asks of a step costs time and memory in proportion to its tokens, whatever its texts are."""

import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fedllm.config import TaskConfig
from fedllm.errors import DataError, ModelError
from fedllm.models.base import Tokenizer, load_base, resolve_base
from fedllm.tasks.examples import fill
from fedllm.tasks.load import wording_of
from fedllm.training.batches import by_length, draw, filled
from fedllm.training.local import _drawn_indices
from tests.training.learners import encode

TASK = TaskConfig(
    fields={"text": "text", "label": "label", "answer": "text"},
    labels={"positive": " positive", "negative": " negative"},
    template="Text: {text}\nSentiment:",
    max_length=64,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_base(resolve_base("tiny"))[1]


def padded(lengths: list[int], part: list[int]) -> int:
    return len(part) * max(lengths[i] for i in part)


def fed(lengths: list[int], part: list[int]) -> int:
    return sum(lengths[i] for i in part)


@pytest.mark.parametrize(("split", "tokens"), [(filled, fed), (by_length, padded)])
@pytest.mark.parametrize("seed", range(20))
def test_a_part_has_no_more_tokens_than_it_may_and_none_could_take_the_next_example(
    split: Callable[[list[int], int], list[list[int]]],
    tokens: Callable[[list[int], list[int]], int],
    seed: int,
) -> None:
    chance = np.random.default_rng(seed)
    most = int(chance.integers(1, 3000))
    lengths = chance.integers(1, 4 + 100 * seed, size=chance.integers(1, 60)).tolist()
    parts = split(lengths, most)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    assert all(tokens(lengths, part) <= most or len(part) == 1 for part in parts)
    assert all(tokens(lengths, [*part, later[0]]) > most for part, later in pairwise(parts))


@pytest.mark.parametrize("split", [filled, by_length])
def test_a_batch_of_65536_is_split_about_as_fast_as_it_is_sorted(
    split: Callable[[list[int], int], list[list[int]]],
) -> None:
    lengths = np.random.default_rng(7).integers(1, 2048, size=65_536).tolist()
    begun = time.process_time()
    parts = split(lengths, 2048)
    assert time.process_time() - begun < 5  # s
    assert sum(map(len, parts)) == len(lengths)


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(100, 8, 3), (10, 4, 5), (12, 4, 3), (5, 64, 1)])
def test_what_is_encoded_is_what_is_drawn_indices(count: int, batch_size: int, steps: int) -> None:
    seen = {i for batch in draw(count, batch_size, steps, (7, 1)) for i in batch}
    assert list(_drawn_indices(count, batch_size, steps, (7, 1))) == sorted(seen)


class _Watched:
    """A tokenizer that remembers the longest text that it was given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self.longest = tokenizer, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, **options: bool) -> Any:  # noqa: ANN401 - a tokenizer's
        self.longest = max(self.longest, len(text))
        return self._tokenizer(text, **options)


@pytest.mark.parametrize("kind", ["classification", "summarization", "text"])
def test_no_text_is_longer_than_its_tokens_can_need_when_it_is_tokenised(
    tokenizer: Tokenizer, kind: str
) -> None:
    watched = _Watched(tokenizer)
    task = TASK.model_copy(update={"kind": kind, "template": "{text}" * 3000 + "\nSo:"})
    (example,) = encode(watched, [{"text": "x" * 100_000, "label": "positive"}], task)
    assert watched.longest == 16 * task.max_length + len("\nSo:")
    assert len(example.prompt) + len(example.answer) == task.max_length


def test_a_template_that_repeats_a_field_a_thousand_times_costs_no_memory() -> None:
    task = TASK.model_copy(update={"template": "{text}" * 3000})
    record = {"text": "x" * 100_000}  # 300 MB, were they put together
    tracemalloc.start()
    filled = fill(record, task)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert filled == "x" * 16 * task.max_length
    assert peak < 1_000_000  # bytes


def test_an_answer_is_cut_before_it_is_tokenised(tokenizer: Tokenizer) -> None:
    watched = _Watched(tokenizer)
    task = TASK.model_copy(update={"kind": "summarization", "template": "So:"})
    encode(watched, [{"text": "x" * 100_000}], task)
    assert watched.longest == 16 * task.max_length


def test_the_words_after_the_text_are_kept_whole_however_long_the_text_is(tokenizer: Tokenizer) -> None:
    (example,) = encode(tokenizer, [{"text": "x" * 100_000, "label": "positive"}], TASK)
    assert tokenizer.decode(example.prompt).endswith("x\nSentiment:")
    assert len(example.prompt) + len(example.answer) == TASK.max_length


def test_a_field_that_is_not_there_is_missed_also_behind_what_is_cut() -> None:
    task = TASK.model_copy(update={"template": "{text}" * 30 + "{label}"})
    with pytest.raises(DataError, match="no field 'label'"):
        fill({"text": "x" * 100_000}, task)


def test_a_label_that_leaves_no_room_for_a_prompt_is_refused(tokenizer: Tokenizer) -> None:
    task = TASK.model_copy(update={"labels": {"positive": " positive", "negative": "n" * 64}})
    with pytest.raises(ModelError, match="negative leave no room for a prompt"):
        _ = wording_of(tokenizer, task).labels
