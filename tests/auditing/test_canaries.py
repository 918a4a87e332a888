"""The audit's canaries on the real private training: honest code stays within its claim, broken does not."""

import ast
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import fedllm
import flows
from fedllm.auditing.canaries import TextCanaries, audit_training
from fedllm.auditing.gradient_canaries import GradientCanaries
from fedllm.auditing.held_out import attack_membership
from fedllm.auditing.one_run import OneRunAudit
from fedllm.config import AdapterConfig, LocalConfig, TaskConfig
from fedllm.errors import TrainingError
from fedllm.models.adapter import attach
from fedllm.models.base import load_base, resolve_base
from fedllm.privacy.accounting import noise_multiplier
from fedllm.privacy.grid import Grid
from fedllm.privacy.noise import NoiseSource, SecureNoise
from fedllm.protocol.terms import PrivateTerms
from fedllm.tasks.causal import CausalLearner
from fedllm.tasks.examples import IGNORED, Example, collate
from fedllm.tasks.load import causal_learner, wording_of
from fedllm.training.dp import train_privately, units_of
from fedllm.training.learner import Learner
from tests.training.linear import RECORDS, LinearLearner

DELTA, CLIP, STEPS = 1e-5, 0.5, 4
LOCAL = LocalConfig(optimizer="sgd", lr=0.1, steps=STEPS, batch_size=20, precision="fp32")
SIGMA = noise_multiplier(1.0, DELTA, 1.0, STEPS)  # 7.462: every unit in all four steps for epsilon 1
TERMS = PrivateTerms("record", 1.0, SIGMA, CLIP)


class NoNoise(SecureNoise):
    """Draws units, and no noise."""

    def gaussian(self, count: int, scale: float) -> torch.Tensor:
        del scale
        return torch.zeros(count, dtype=torch.int64)


class ForgetfulNoise(SecureNoise):
    """Noises every second tensor."""

    calls = 0

    def gaussian(self, count: int, scale: float) -> torch.Tensor:
        self.calls += 1
        return super().gaussian(count, scale * (self.calls % 2))


class RepeatedNoise(SecureNoise):
    """Draws the noise of a tensor once and uses it in every step."""

    drawn: torch.Tensor | None = None

    def gaussian(self, count: int, scale: float) -> torch.Tensor:
        self.drawn = super().gaussian(count, scale) if self.drawn is None else self.drawn
        return self.drawn


def audit(
    learner: Learner | None = None,
    noise: NoiseSource | None = None,
    **terms: Any,  # noqa: ANN401 - of audit_training
) -> OneRunAudit:
    chosen = {"rounds": 1, "claim": 1.0, "delta": DELTA, "count": 256, "noise": noise} | terms
    records = chosen.pop("records", RECORDS)
    local, privacy = chosen.pop("local", LOCAL), chosen.pop("privacy", TERMS)
    return audit_training(learner or LinearLearner(), records, local, privacy, **chosen)


def tiny(**settings: Any) -> CausalLearner:  # noqa: ANN401 - of a TaskConfig
    model, tokenizer = load_base(resolve_base("tiny"))
    task = {"labels": {"positive": " positive", "negative": " negative"}, "template": "{text} :"}
    return causal_learner(attach(model, AdapterConfig(), 7), tokenizer, TaskConfig(**(task | settings)))


TEXTS = [{"text": f"text {n}", "label": ("positive", "negative")[n % 2]} for n in range(8)]


def test_an_honest_training_stays_within_its_claim_in_forty_runs() -> None:
    found = [audit() for _ in range(40)]
    assert {told.verdict for told in found} == {"no violation found"}
    assert max(told.lower_bound for told in found) <= 1.0
    # The canaries are not blind: they are guessed better than by tossing a coin.
    assert sum(told.right for told in found) > 0.53 * sum(told.guesses for told in found)


def test_no_noise_is_caught() -> None:
    told = audit(noise=NoNoise())
    assert told.verdict == "violation"
    assert told.lower_bound > 3


def test_no_clipping_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Grid.sum_clipped

    def unbound(grid: Grid, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        coarse = dataclasses.replace(grid, clip=2.0**20 * grid.clip, std=2.0**20 * grid.std)
        return [part << 20 for part in honest(coarse, gradients)]

    monkeypatch.setattr(Grid, "sum_clipped", unbound)
    told = audit()
    assert told.verdict == "violation"
    assert told.lower_bound > 3


def test_no_noise_is_caught_with_sampling_momentum_schedule_and_several_rounds() -> None:
    local = LOCAL.model_copy(update={"momentum": 0.9, "schedule": "cosine", "steps": 10})
    told = audit(noise=NoNoise(), rounds=3, local=local, privacy=PrivateTerms("record", 0.3, 5.0, CLIP))
    assert told.verdict == "violation"


def test_an_honest_language_model_stays_within_its_claim_and_one_without_noise_does_not() -> None:
    learner = tiny()
    local = LOCAL.model_copy(update={"batch_size": 8})
    assert audit(learner, records=TEXTS, local=local).verdict == "no violation found"
    assert audit(learner, NoNoise(), records=TEXTS, local=local).verdict == "violation"


def test_noise_that_leaves_tensors_out_is_caught() -> None:
    # Canaries lie in all linear layers: guesses are right wherever there is no noise.
    told = audit(
        tiny(), ForgetfulNoise(), records=TEXTS, claim=0.5, local=LOCAL.model_copy(update={"batch_size": 8})
    )
    assert told.verdict == "violation"


def test_too_few_canaries_are_insufficient_power() -> None:
    assert audit(noise=NoNoise(), count=16).verdict == "insufficient power"


def updates(
    learner: Learner, records: Sequence[Any], terms: PrivateTerms, noise: NoiseSource
) -> torch.Tensor:
    """What every step moved; (steps, size)."""
    seen = [learner.shared.read()]
    train_privately(
        learner,
        records,
        LOCAL,
        terms,
        steps=STEPS,
        round_number=1,
        rounds=1,
        noise=noise,
        progress=lambda _step, _steps: seen.append(learner.shared.read()),
    )
    return torch.stack(seen).diff(dim=0)


def test_noise_that_is_used_twice_shows_in_the_difference_of_two_steps() -> None:
    nobody = PrivateTerms("record", 1e-12, SIGMA, CLIP)  # every step is noise alone
    spread = LOCAL.lr * SIGMA * CLIP / LOCAL.batch_size
    honest = updates(LinearLearner(), RECORDS, nobody, SecureNoise()).diff(dim=0)
    assert float(honest.std()) == pytest.approx(2**0.5 * spread, rel=0.1)
    repeated = updates(LinearLearner(), RECORDS, nobody, RepeatedNoise()).diff(dim=0)
    assert float(repeated.abs().max()) < 1e-6 * spread


class BatchMean(CausalLearner):
    """The fault of `outputs.loss`: one mean over the tokens of the whole batch."""

    def split(self, examples: Sequence[Example]) -> list[list[int]]:
        return [list(range(len(examples)))]

    def losses(self, examples: Sequence[Example], size: tuple[int, ...] | None = None) -> torch.Tensor:
        padded = collate(examples, self.tokenizer.pad_token_id, size)
        logits = self._logits(padded)
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), padded.labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(padded.labels)
        return losses.sum(1) * len(examples) / (padded.labels != IGNORED).sum()


TEXT = TaskConfig(kind="text", fields={"text": "text"}, max_length=256)
WIDE = PrivateTerms("record", 1.0, SIGMA, 20.0)  # above these records' gradients: clipping hides nothing
SHORT, LONG = [{"text": f"no {n}"} for n in range(12)], {"text": "so long a text " * 12}


def test_one_record_moves_a_step_by_no_more_than_the_clip() -> None:
    model, tokenizer = load_base(resolve_base("tiny"))
    learner = causal_learner(attach(model, AdapterConfig(), 7), tokenizer, TEXT)
    start = learner.shared.read()
    moved = []
    for records in ([*SHORT, LONG], SHORT):
        learner.shared.write(start)
        moved.append(updates(learner, records, WIDE, NoNoise())[0])
    assert float((moved[0] - moved[1]).norm()) * LOCAL.batch_size / LOCAL.lr <= WIDE.clip


def test_a_loss_that_is_a_mean_over_the_batch_is_not_trained() -> None:
    model, tokenizer = load_base(resolve_base("tiny"))
    learner = BatchMean(attach(model, AdapterConfig(), 7), tokenizer, TEXT, wording_of(tokenizer, TEXT))
    with pytest.raises(TrainingError, match="depends on the others of its batch"):
        updates(learner, SHORT, WIDE, NoNoise())


def test_a_canary_that_is_in_adds_exactly_the_clip_at_its_weight_whatever_the_optimizer_remembers() -> None:
    local = LOCAL.model_copy(update={"momentum": 0.9, "schedule": "cosine"})
    learner = LinearLearner()
    canaries = GradientCanaries(learner, RECORDS, local, TERMS, 16)
    canaries.begin(1, 1)
    train_privately(
        canaries.learner,
        canaries.records[:8],
        local,
        TERMS,
        steps=STEPS,
        round_number=1,
        rounds=1,
        progress=lambda step, _: canaries.observe(step),
        noise=NoNoise(),
    )
    seen = canaries._sums[[place.flat for place in canaries._places]]
    assert seen.tolist() == pytest.approx([STEPS * CLIP / LOCAL.batch_size] * 8 + [0.0] * 8, abs=1e-6)


def test_where_people_are_the_units_every_canary_is_one() -> None:
    terms = PrivateTerms("person", 1.0, SIGMA, CLIP, unit_field="who")
    people = [record | {"who": f"person {n % 5}"} for n, record in enumerate(RECORDS)]
    assert audit(noise=NoNoise(), records=people, privacy=terms).verdict == "violation"
    canaries = GradientCanaries(LinearLearner(), people, LOCAL, terms, 16)
    assert len(units_of([*people, *canaries.records], terms)) == 5 + 16


def test_text_canaries_are_records_of_the_task_and_are_learned_without_noise() -> None:
    learner = tiny(max_length=64)
    canaries = TextCanaries(learner, TERMS, 200)
    assert len({record["text"] for record in canaries.records}) == 200
    assert {record["label"] for record in canaries.records} == {"positive", "negative"}
    local = LOCAL.model_copy(update={"steps": 60, "lr": 5.0})
    told = audit(learner, NoNoise(), records=TEXTS, kind="text", local=local, claim=0.05, count=64)
    assert told.right > 0.6 * told.guesses


def test_text_canaries_need_texts() -> None:
    with pytest.raises(TrainingError, match="gradient canaries"):
        audit(kind="text")


def test_more_canaries_than_weights_are_refused() -> None:
    with pytest.raises(TrainingError, match="512 weights in linear layers: 513 canaries"):
        audit(count=513)


@pytest.mark.parametrize(
    "train", [audit, lambda learner: attack_membership(learner, RECORDS, LOCAL, TERMS, rounds=1)]
)
def test_what_an_audit_trains_is_thrown_away(train: Callable[[Learner], object]) -> None:
    learner = LinearLearner()
    start = torch.randn(512)
    learner.shared.write(start)
    train(learner)
    assert torch.equal(learner.shared.read(), start)


def test_what_an_audit_trains_is_thrown_away_even_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = LinearLearner()
    monkeypatch.setattr(GradientCanaries, "scores", lambda _self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        audit(learner)
    assert torch.equal(learner.shared.read(), torch.zeros(512))


def test_members_of_a_training_without_noise_stand_out_and_with_it_they_do_not() -> None:
    records = [{"seed": str(number)} for number in range(400)]
    local = LOCAL.model_copy(update={"lr": 60.0, "steps": 40, "batch_size": 200})
    open_, hidden = (
        attack_membership(LinearLearner(), records, local, terms, rounds=1)
        for terms in (PrivateTerms("record", 1.0, 1e-4, 2.0), PrivateTerms("record", 1.0, 50.0, 2.0))
    )
    assert (open_.members, open_.non_members) == (200, 200)
    assert open_.tpr is not None
    assert open_.tpr > 0.5
    assert hidden.tpr is not None
    assert hidden.tpr < 0.2
    assert open_.kind == hidden.kind == "heuristic"


def test_people_are_whole_on_one_side() -> None:
    from fedllm.auditing.held_out import _halves

    records = [{"who": f"person {n % 7}", "n": str(n)} for n in range(50)]
    inside, outside = _halves(records, "who")
    assert {one["who"] for one in inside}.isdisjoint(one["who"] for one in outside)
    assert len(inside) + len(outside) == 50


def test_nothing_that_takes_part_in_a_round_knows_of_canaries() -> None:
    knows = {"fedllm.auditing.canaries", "fedllm.auditing.gradient_canaries", "fedllm.auditing.held_out"}
    found = set()
    for package in (fedllm, flows):
        root = Path(package.__path__[0])
        for path in root.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                found |= {str(path.relative_to(root.parent)) for name in names if name in knows}
    own = {"fedllm/auditing/site.py", "fedllm/auditing/canaries.py", "fedllm/auditing/held_out.py"}
    assert found == own
