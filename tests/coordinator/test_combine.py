"""Rounds of a real coordinator under each combination: what one liar among five moves."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fedllm.auditing.updates import norm_bound
from fedllm.config import FederationConfig
from fedllm.coordinator.aggregate import aggregate
from fedllm.coordinator.members import add_site
from fedllm.coordinator.payloads import read_model
from fedllm.coordinator.training import open_training
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.exchange.mailbox import Mailbox
from fedllm.journal.outcomes import Audited
from fedllm.models.codec import codec_named, decode_flat
from fedllm.protocol.layout import Layout
from fedllm.secure.identity import create_identity
from tests.coordinator.played import PlayedRound, PlayedSite, begin_round

FIVE = ("amazon", "books", "movies", "nyt", "tweets")
LIAR = "movies"


@contextmanager
def five(config: FederationConfig, folder: Path, **settings: object) -> Iterator[PlayedRound]:
    """A round of five sites under some settings, in a federation of its own."""
    name = "-".join(["five", *map(str, settings.values())])
    store = {"url": f"file://{folder / name}"}
    changed = {"name": name, "store": store, "codec": settings.get("codec", "fp32")}
    raw = config.model_dump() | changed
    raw["aggregation"] = raw["aggregation"] | {"combine": settings.get("combine", "mean")}
    own = FederationConfig.model_validate(raw)
    sites = {}
    for site in FIVE:
        me = create_identity(folder / name / "sites" / site, site)
        add_site(own, me.public)
        shown = DirectoryStore(folder / name)
        sites[site] = PlayedSite(me, shown, Mailbox(shown, Layout(name), me), folder / name / "sites" / site)
    with open_training(own, "run-1", Path(config.evaluation.public)) as training:
        yield begin_round(training, sites)


def moved(round_: PlayedRound, updates: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the round moves the model by: (n,)."""
    training, plan = round_.training, round_.plan
    for name, update in updates.items():
        round_.sites[name].send(plan, round_.plan_sha256, update)
    audited = training.journal.once("run-1", 1, "dp-audit", Audited, round_.audit)
    assert [counted.site for counted in audited.counted] == list(FIVE)
    made = aggregate(training, 1)
    size = len(updates[LIAR])
    before, after = (decode_flat(read_model(training, model), size) for model in (plan.model, made.model))
    return after - before


def honest_updates(round_: PlayedRound) -> dict[str, torch.Tensor]:
    """One direction that all share, and something of each site's own."""
    size, generator = round_.training.learner().shared.layout.size, torch.Generator().manual_seed(3)
    shared = torch.randn(size, generator=generator) * 1e-3
    return {name: shared + torch.randn(size, generator=generator) * 2e-4 for name in FIVE}


def test_a_liar_among_five_moves_the_model_less_with_a_median_than_with_a_mean(
    config: FederationConfig, tmp_path: Path
) -> None:
    distance, results = {}, {}
    for combine in ("mean", "median"):
        with five(config, tmp_path, combine=combine) as round_:
            updates = honest_updates(round_)
            truth = sum(updates[name] for name in FIVE if name != LIAR) / 4
            # As far against the others as the audit lets a site go.
            most = 0.99 * norm_bound(round_.plan.local, round_.plan.local.steps, len(truth), 0.0)
            updates[LIAR] = -truth / truth.norm() * most
            results[combine] = moved(round_, updates)
            distance[combine] = float((results[combine] - truth).norm())
    assert float((results["mean"] * truth).sum()) < 0  # the liar alone turns the mean round
    assert float((results["median"] * truth).sum()) > 0
    assert distance["median"] < 0.1 * distance["mean"]


def test_a_round_in_fp16_counts_what_its_bytes_say_and_takes_half_of_them(
    config: FederationConfig, tmp_path: Path
) -> None:
    most, results = {}, {}
    for codec in ("fp32", "fp16"):
        with five(config, tmp_path, codec=codec) as round_:
            updates = honest_updates(round_)
            most[codec] = round_.plan.most_bytes
            results[codec] = moved(round_, updates)
            kept = [codec_named(codec).encode(update, None)[0] for update in updates.values()]
            decoded = [codec_named(codec).decode(data, len(updates[LIAR])) for data in kept]
            expected = sum(update.double() for update in decoded) / 5
            torch.testing.assert_close(results[codec].double(), expected, rtol=0, atol=1e-7)
    assert most["fp16"] - 64 * 1024 == pytest.approx((most["fp32"] - 64 * 1024) / 2, rel=0.01)
    assert 0 < float((results["fp32"] - results["fp16"]).abs().max()) < 1e-5


def test_a_plan_names_its_codec_unless_it_is_fp32(config: FederationConfig, tmp_path: Path) -> None:
    for codec, named in (("fp32", False), ("fp16", True)):
        with five(config, tmp_path, codec=codec) as round_:
            assert round_.plan.codec == codec
            assert ("codec" in round_.plan.model_dump(mode="json", by_alias=True)) == named
