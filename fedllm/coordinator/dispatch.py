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

_HEADERS = 64 * 1024  # bytes that the headers of age and safetensors may take


def dispatch(training: Training, number: int, say: Callable[[str], None] = log.info) -> Dispatched:
    """Publish a round's plan; after a crash, the same plan again.

    Args:
        training: the training.
        number: of the round.
        say: called with the sites that it waits for and why, whenever that changes.

    Returns:
        The plan's hash and its sites.

    Raises:
        LedBeforeError: the store holds a plan of this round that this journal does not know.
        RoundError: fewer than `min_sites` sites are live.
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
    """Give up a round's number if the journal was restored from a backup that lacks the round's plan.

    A plan is on record before it is published, so a plan in the store that is not on record was made after
    the backup. Sites that were not restored refuse a second plan with its number, and their answers to the
    first one are still in the store. The next number has neither problem.
    """
    mail, run = training.mailbox, training.run
    try:
        earlier = mail.find(training.layout.plan(run, number), Plan, mail.me.public, run=run, number=number)
    except RefusedError:
        return  # not signed with these keys, so no site accepts it either
    if earlier is not None:
        forget_updates(training, number, earlier.message.sites)  # the key that opens them is lost
        raise LedBeforeError("it began before this journal was restored: sites may still hold its plan")


def read_plan(training: Training, number: int) -> Plan:
    """Return the plan that this coordinator signed for a round."""
    return training.own(training.layout.plan(training.run, number), Plan, number).message


def show_plan_again(training: Training, number: int, known: Dispatched) -> None:
    """Publish plan, model and head of an interrupted round again, unless the round is closed."""
    if training.journal.outcome(training.run, number, "dp-audit", Audited) is None:
        show_model_again(training, read_plan(training, number).model)
        training.show_again(training.layout.plan(training.run, number))
        training.point_head(number, known.plan_sha256)


def _plan(training: Training, number: int, say: Callable[[str], None]) -> Plan:
    config = training.config
    cards = live_sites(training, number, say)
    cohort = training.schedule.cohort(config, sorted(cards), number)
    shared = training.learner().shared
    weighting = config.aggregation.weighting
    previous = previous_report(training, number)
    return Plan(
        federation=config.name,
        sender=COORDINATOR,
        receiver=EVERYONE,
        run=training.run,
        round=number,
        roster_version=training.roster.roster_version,
        epoch=training.epoch,
        rounds=max(config.rounds.max, number),
        follows=previous,
        deadline=training.now() + config.rounds.deadline,
        seed=config.seed,
        sites=cohort,
        weights=_weights(training, [cards[site] for site in cohort]),
        weighting=weighting,
        base_sha256=training.base[1],
        adapter=config.model.adapter,
        layout_sha256=shared.layout.sha256,
        frozen_sha256=shared.frozen_sha256,
        model=_model_for(training, number, cohort),
        task=config.task,
        local=config.local,
        codec=config.codec,
        most_bytes=_most_bytes(codec_named(config.codec).most_bytes(shared.layout.size)),
        recipient=round_recipient(training, number),
        confidentiality=config.confidentiality,
        schedule=training.schedule.name,
        privacy=privacy_plan(training),
        ledgers=known_heads(training.journal, cohort),
    )


def _most_bytes(encoded: int) -> int:
    """Return the largest size of a sealed update from its encoded bytes: age adds 16 bytes per 64 KiB."""
    return encoded + encoded // 4096 + _HEADERS


def _weights(training: Training, cards: list[Card]) -> dict[str, int]:
    """Return each site's public integer weight: its examples, the batch size (times steps later), or 1.

    Counts of examples are the sites' own claims; `fedllm.aggregation.weights.capped` bounds their share.
    """
    aggregation = training.config.aggregation
    if aggregation.weighting != "examples":
        planned = training.config.local.batch_size if aggregation.weighting == "work" else 1
        return {card.sender: planned for card in cards}
    return capped({card.sender: card.examples or 0 for card in cards}, aggregation.weight_cap)


def _model_for(training: Training, number: int, cohort: tuple[str, ...]) -> Sealed:
    """Return the global adapter that the round starts from, sealed for every site of the cohort."""
    newest = training.schedule.start(training.journal, training.run, number)
    recipients = tuple(site.recipient for site in training.roster.sites if site.name in cohort)
    covered = newest is not None and set(recipients) <= set(newest.sealed_for)
    if newest is not None and covered and show_model_again(training, newest.model):
        return newest.model
    # The first round starts from the initial adapter. A later adapter is sealed anew if sites have joined or
    # changed keys since, or if the store has lost it.
    data = encode_flat(training.initial()) if newest is None else read_model(training, newest.model)
    return seal_model(training, data, recipients)


def previous_report(training: Training, number: int) -> str | None:
    """Return the hash of the newest report before a round; None if there is none. Failed rounds have none."""
    for earlier in range(number - 1, 0, -1):
        if training.journal.outcome(training.run, earlier, "failed", FailedRound):
            continue
        return training.own(training.layout.report(training.run, earlier), Report, earlier).sha256
    return None
