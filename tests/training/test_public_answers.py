"""Which public records were right, kept in a bit each."""

import pytest

from fedllm.training.public_answers import PublicAnswers, public_answers, public_sha256

RECORDS = [{"text": f"text {n}", "label": "positive"} for n in range(11)]


def test_answers_are_a_bit_a_record() -> None:
    right = [True, False, True, True, False, False, False, False, True, False, True]
    found = public_answers(RECORDS, [1.0] * 11, right)
    assert found is not None
    assert (found.records, found.right, found.losses) == (11, "0d05", None)
    assert found.judged == tuple(right)
    assert PublicAnswers.model_validate_json(found.model_dump_json()) == found


def test_where_no_answer_is_the_right_one_losses_are_kept() -> None:
    found = public_answers(RECORDS[:2], [0.123456789, 2.0], [None, None])
    assert found is not None
    assert (found.right, found.losses, found.judged) == (None, (0.123457, 2.0), None)


def test_a_loss_that_is_not_finite_keeps_nothing() -> None:
    assert public_answers(RECORDS[:2], [float("nan"), 2.0], [None, None]) is None


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
