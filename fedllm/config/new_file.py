"""The federation file that `fedllm new` writes: what one has to think about, each line with its meaning."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fedllm.config.yaml_text import read_yaml

TaskKind = Literal["classification", "chat", "summarization", "text"]
KINDS: tuple[TaskKind, ...] = get_args(TaskKind)
PUBLIC = "public.jsonl"  # the coordinator's own records, beside the file


@dataclass(frozen=True)
class _Kind:
    """What differs from task to task."""

    fields: tuple[tuple[str, str, str], ...]  # the template's name, a record's name, what is there
    template: str
    max_length: int  # tokens
    lr: str
    measured: str


_KINDS: dict[TaskKind, _Kind] = {
    "classification": _Kind(
        (("text", "text", "…"), ("label", "label", "")), "Text: {text}\nLabel:", 128, "4.0e-3", "accuracy"
    ),
    "chat": _Kind((("text", "question", "…"), ("answer", "answer", "…")), "{text}", 512, "2.0e-3", "loss"),
    "summarization": _Kind(
        (("text", "text", "…"), ("answer", "summary", "…")), "{text}\n\nSummary:", 1024, "2.0e-3", "loss"
    ),
    "text": _Kind((("text", "text", "…"),), "{text}", 512, "2.0e-3", "loss"),
}


def example_record(kind: TaskKind, labels: Sequence[str]) -> str:
    """One record of a task, as a line of a data file."""
    held = {field: value or labels[0] for _, field, value in _KINDS[kind].fields}
    return json.dumps(held, ensure_ascii=False)


def federation_text(name: str, kind: TaskKind, labels: Sequence[str], base: str) -> str:
    """Write a federation file without a `simulation`.

    Args:
        name: of the federation.
        kind: of its task.
        labels: of a classification, two at least; each becomes its own answer.
        base: the base model.

    Returns:
        YAML with comments.
    """
    chosen = _KINDS[kind]
    return "\n".join(
        [
            "# A federation: its sites train one model together, each beside its own records.",
            "# `fedllm run FILE --set rounds.max=5` changes a value for one run.",
            f"name: {_quoted(name)}  # of the federation, its model in MLflow and its deployments",
            "model:",
            "  # A name that fedllm knows, a hub id with or without @revision, a folder, or a .gguf file.",
            "  # Every site holds the same: `fedllm site init NAME --base …`.",
            f"  base: {_quoted(base)}",
            "  # LoRA of this rank on the base model's modules of these names.",
            "  adapter: {method: ffa-lora, rank: 8, alpha: 16, targets: [q_proj, v_proj]}",
            *_task(kind, chosen, labels),
            "# The coordinator's own records, of the same form: they measure every round. Beside this file.",
            f"evaluation: {{public: {PUBLIC}}}",
            "rounds:",
            "  max: 3  # at most",
            f"  patience: 2  # rounds without a better {chosen.measured}, after which a training ends",
            "  min_sites: 2  # with fewer live sites there is no round",
            "  deadline: 15m  # for one round; an update that comes later does not count",
            f"local: {{lr: {chosen.lr}, steps: 16, batch_size: 8}}  # what each site does in a round",
            "# No differential privacy: a model may remember records. docs/privacy.md tells how to bound it,",
            "# and `fedllm plan-privacy FILE` what it costs.",
            "privacy: {unit: none}",
            "# The MinIO and MLflow that `fedllm up` starts on this machine. Sites on other machines need a",
            "# store with a door that they can reach: docs/tutorial.md.",
            "store: {url: auto}",
            "tracking: {uri: auto}",
            "",
        ]
    )


def _task(kind: TaskKind, chosen: _Kind, labels: Sequence[str]) -> list[str]:
    fields = ", ".join(f"{name}: {field}" for name, field, _ in chosen.fields)
    lines = [
        "task:",
        f"  kind: {kind}",
        f"  # A record is a line of JSON such as {example_record(kind, labels)}.",
        f"  fields: {{{fields}}}  # left: as the template names it; right: as the records do",
    ]
    if kind == "classification":
        lines += [
            "  # Left: a record's label. Right: what the model answers, each beginning with another token.",
            "  labels:",
            *(f"    {_quoted(label)}: {_quoted(f' {label}')}" for label in labels),
        ]
    return [
        *lines,
        f"  template: {_quoted(chosen.template)}  # {_TEMPLATE[kind]}",
        f"  max_length: {chosen.max_length}  # tokens of a record; what is longer is cut",
    ]


_TEMPLATE: dict[TaskKind, str] = {
    "classification": "the prompt, which the answer follows",
    "chat": "the prompt, in the base model's own chat format where it has one",
    "summarization": "the prompt, which the answer follows",
    "text": "what the model learns to continue, all of it",
}


def _quoted(text: str) -> str:
    """A text as YAML reads it back: in JSON's form unless it needs none, as `yes` and `1` do."""
    plain = re.fullmatch(r"[A-Za-z][\w./@-]*", text) is not None and read_yaml(text) == text
    return text if plain else json.dumps(text, ensure_ascii=False)
