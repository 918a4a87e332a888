"""Which public records were right, kept in a bit each."""

import pytest

from fedllm.training.judged import Judged
from fedllm.training.public_answers import PublicAnswers, public_answers, public_sha256

RECORDS = [{"text": f"text {n}", "label": "positive"} for n in range(11)]


def judgements(right: list[bool]) -> list[Judged]:
    return [Judged(1.0, "positive", "positive" if one else "negative") for one in right]


def test_answers_are_a_bit_a_record() -> None:
    right = [True, False, True, True, False, False, False, False, True, False, True]
    found = public_answers(RECORDS, judgements(right))
    assert found is not None
    assert (found.records, found.right, found.losses) == (11, "0d05", None)
    assert found.judged == tuple(right)
    assert PublicAnswers.model_validate_json(found.model_dump_json()) == found


def test_where_no_answer_is_the_right_one_losses_are_kept() -> None:
    found = public_answers(RECORDS[:2], [Judged(0.123456789), Judged(2.0)])
    assert found is not None
    assert (found.right, found.losses, found.judged) == (None, (0.123457, 2.0), None)


def test_labels_and_losses_are_kept_beside_the_bitmap_where_a_metric_needs_them() -> None:
    rows = [Judged(0.5, "b", "a"), Judged(1.5, "c", "c")]
    bare = public_answers(RECORDS[:2], rows)
    assert bare is not None
    assert list(bare.model_dump()) == ["public_sha256", "records", "right", "losses"]
    labelled = public_answers(RECORDS[:2], rows, ("labels",))
    assert labelled is not None
    assert labelled.labels is not None
    assert labelled.labels.pairs == [("b", "a"), ("c", "c")]
    assert labelled.model_dump(exclude={"labels"}) == bare.model_dump()
    assert PublicAnswers.model_validate_json(labelled.model_dump_json()) == labelled
    both = public_answers(RECORDS[:2], rows, ("losses",))
    assert both is not None
    assert (both.right, both.losses) == ("02", (0.5, 1.5))


@pytest.mark.parametrize(
    "labels",
    [
        {"names": ["a"], "expected": [0], "given": [0]},  # of one record, not of two
        {"names": ["a"], "expected": [0, 1], "given": [0, 0]},  # a label without a name
        {"names": ["a"], "expected": [0, 0], "given": [0]},
        {"names": ["a"], "expected": [0, -1], "given": [0, 0]},
    ],
)
def test_damaged_labels_are_refused(labels: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        PublicAnswers.model_validate({"public_sha256": "a" * 64, "records": 2, "labels": labels})


def test_a_loss_that_is_not_finite_keeps_nothing() -> None:
    assert public_answers(RECORDS[:2], [Judged(float("nan")), Judged(2.0)]) is None


def test_the_set_is_named_by_its_records_in_their_order() -> None:
    same = public_sha256([dict(reversed(record.items())) for record in RECORDS])
    assert same == public_sha256(RECORDS)
    assert same != public_sha256(RECORDS[::-1])
    assert same != public_sha256(RECORDS[:-1])


@pytest.mark.parametrize("wrong", [{"right": "0d"}, {"right": "0D05"}, {"losses": (1.0,)}, {"records": 0}])
def test_a_damaged_bitmap_is_refused(wrong: dict[str, object]) -> None:
    whole = {"public_sha256": "a" * 64, "records": 11, "right": "0d05"}
    with pytest.raises(ValueError, match="validation error"):
        PublicAnswers.model_validate(whole | wrong)
