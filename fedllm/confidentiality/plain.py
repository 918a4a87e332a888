"""Mode `plain`: updates travel sealed for the round's own key, and the coordinator opens each of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm.auditing.noise import Trained
from fedllm.auditing.updates import audit_update
from fedllm.confidentiality.mode import TRAIN, Combine, Mode, Phase, RoundView, SiteObject
from fedllm.config import FederationConfig
from fedllm.errors import RefusedError
from fedllm.exchange.mailbox import seal_to_file
from fedllm.models.codec import codec_named
from fedllm.protocol.messages import Answer, Counted, Plan, Sealed, Update, Verdict

if TYPE_CHECKING:
    import torch


class _Site:
    def conceal(self, plan: Plan, update: bytes, key: str, path: Path) -> Sealed:
        return seal_to_file(update, [plan.recipient], key, path)

    def reply(self, plan: Plan, phase: str, query: str) -> str:
        del plan, query
        raise RefusedError(f"mode plain has no phase {phase}")


class _Coordinator:
    def inspect(self, view: RoundView, update: Sealed, trained: Trained) -> Verdict:
        opened = view.fetch(update)
        verdict = audit_update(opened, trained)
        if verdict.accepted:
            view.keep(update, opened)
        return verdict

    def query(self, view: RoundView, phase: str, site: str) -> str:
        raise NotImplementedError(f"mode plain asks {site} nothing in phase {phase} of {view.plan.run}")

    def total(self, view: RoundView, counted: Sequence[Counted], combine: Combine) -> "torch.Tensor":
        codec = codec_named(view.plan.codec)

        def updates() -> "Iterator[tuple[int, torch.Tensor]]":
            for one in counted:
                yield one.weight, codec.decode(view.read(one.payload), view.size)

        return combine(updates())


def _fits_all(config: FederationConfig) -> None:
    del config


PLAIN = Mode(
    name="plain",
    who_sees="the coordinator; nobody else, for the store holds it sealed",
    phases=(
        Phase(
            TRAIN,
            (
                SiteObject("answer.json", lambda _plan: Answer.largest),
                SiteObject("update.json", lambda _plan: Update.largest),
                SiteObject("update.bin", lambda plan: plan.most_bytes),
            ),
        ),
    ),
    unobservable=(),
    conflict=_fits_all,
    site=_Site(),
    coordinator=_Coordinator(),
)
