"""Step 1, dispatch: choose live sites, publish the signed plan and the global adapter."""

import hashlib
import logging
from collections.abc import Callable

from fedllm.aggregation.weights import capped
from fedllm.coordinator.live_sites import live_sites
from fedllm.coordinator.payloads import forget_updates, read_model, seal_model, show_model_again
from fedllm.coordinator.privacy_plan import privacy_plan
from fedllm.coordinator.round_keys import round_recipient
from fedllm.coordinator.training import Training
from fedllm.errors import LedBeforeError, RefusedError
from fedllm.journal.ledgers import known_heads
from fedllm.journal.outcomes import Audited, Dispatched, FailedRound
from fedllm.models.codec import codec_named, encode_flat
from fedllm.protocol.messages import COORDINATOR, EVERYONE, Card, Plan, Report, Sealed

log = logging.getLogger(__name__)

_HEADERS = 64 * 1024  # bytes that age's header and that of safetensors may take


def dispatch(training: Training, number: int, say: Callable[[str], None] = log.info) -> Dispatched:
    """Publish a round's plan, or after a crash the same plan again.

    Args:
        training: the training.
        number: of the round.
        say: hears whom it waits for and why, each time that this changes.

    Raises:
        LedBeforeError: the store knows a plan of this round, and this journal does not.
        RoundError: fewer live sites than `min_sites`.
    """
    key = training.layout.plan(training.run, number)
    if not training.journal.has_bytes(key):
        _refuse_led_before(training, number)
    envelope = training.publish(key, lambda: _plan(training, number, say))
    plan_sha256 = hashlib.sha256(envelope).hexdigest()
    training.point_head(number, plan_sha256)
    plan = read_plan(training, number)
    return Dispatched(plan_sha256=plan_sha256, sites=plan.sites)


def _refuse_led_before(training: Training, number: int) -> None:
    """Give a round's number up when the journal was restored and does not know its plan.

    A plan is on record before it is shown, so one in the store that is not on record is from the time after
    the backup. Sites that were not restored refuse a second plan under its number, and their answers to the
    first one are in the store still. The next number is free of both.
    """
    mail, run = training.mailbox, training.run
    try:
        found = mail.find(training.layout.plan(run, number), Plan, mail.me.public, run=run, number=number)
    except RefusedError:
        return  # not of these keys, so no site takes it for this coordinator's either
    if found is not None:
        forget_updates(training, number, found.message.sites)  # nobody has the key that opens them
        raise LedBeforeError("it was led before this journal was restored: sites may hold on to its plan")


def read_plan(training: Training, number: int) -> Plan:
    """The plan that this coordinator signed for a round."""
    return training.own(training.layout.plan(training.run, number), Plan, number).message


def show_plan_again(training: Training, number: int, known: Dispatched) -> None:
    """Show the plan of a round that a crash cut short, its model and the head; a closed round needs none."""
    if training.journal.outcome(training.run, number, "dp-audit", Audited) is None:
        show_model_again(training, read_plan(training, number).model)
        training.show_again(training.layout.plan(training.run, number))
        training.point_head(number, known.plan_sha256)


def _plan(training: Training, number: int, say: Callable[[str], None]) -> Plan:
    config = training.config
    cards = live_sites(training, number, say)
    chosen = training.schedule.cohort(config, sorted(cards), number)
    shared = training.learner().shared
    weighting = config.aggregation.weighting
    follows = previous_report(training, number)
    return Plan(
        federation=config.name,
        sender=COORDINATOR,
        receiver=EVERYONE,
        run=training.run,
        round=number,
        roster_version=training.roster.roster_version,
        epoch=training.epoch,
        rounds=max(config.rounds.max, number),
        follows=follows,
        deadline=training.now() + config.rounds.deadline,
        seed=config.seed,
        sites=chosen,
        weights=_weights(training, [cards[site] for site in chosen]),
        weighting=weighting,
        base_sha256=training.base[1],
        adapter=config.model.adapter,
        layout_sha256=shared.layout.sha256,
        frozen_sha256=shared.frozen_sha256,
        model=_model_for(training, number, chosen),
        task=config.task,
        local=config.local,
        codec=config.codec,
        most_bytes=_most_bytes(codec_named(config.codec).most_bytes(shared.layout.size)),
        recipient=round_recipient(training, number),
        confidentiality=config.confidentiality,
        schedule=training.schedule.name,
        privacy=privacy_plan(training),
        ledgers=known_heads(training.journal, chosen),
    )


def _most_bytes(numbers: int) -> int:
    """How large a sealed update may be whose numbers take so many bytes: age adds 16 to every 64 KiB."""
    return numbers + numbers // 4096 + _HEADERS


def _weights(training: Training, cards: list[Card]) -> dict[str, int]:
    """Each site's public integer: examples told, batch size (times steps later), or 1.

    Counts are the sites' own claims, bounded by their share: `fedllm.aggregation.weights.capped`.
    """
    aggregation = training.config.aggregation
    if aggregation.weighting != "examples":
        planned = training.config.local.batch_size if aggregation.weighting == "work" else 1
        return {card.sender: planned for card in cards}
    return capped({card.sender: card.examples or 0 for card in cards}, aggregation.weight_cap)


def _model_for(training: Training, number: int, chosen: tuple[str, ...]) -> Sealed:
    """The global adapter that the round starts from, sealed for every chosen site."""
    before = training.schedule.start(training.journal, training.run, number)
    wanted = tuple(site.recipient for site in training.roster.sites if site.name in chosen)
    known = before is not None and set(wanted) <= set(before.sealed_for)
    if before is not None and known and show_model_again(training, before.model):
        return before.model
    # The first round starts from the adapter as it is made; later ones are sealed anew for who joined since,
    # has new keys, or when the store lost what it had.
    data = encode_flat(training.initial()) if before is None else read_model(training, before.model)
    return seal_model(training, data, wanted)


def previous_report(training: Training, number: int) -> str | None:
    """Hash of the newest report before a round; failed rounds have none."""
    for earlier in range(number - 1, 0, -1):
        if training.journal.outcome(training.run, earlier, "failed", FailedRound):
            continue
        return training.own(training.layout.report(training.run, earlier), Report, earlier).sha256
    return None
