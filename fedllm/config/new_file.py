"""Write the federation file of `fedllm new`: the settings to decide on, each with a comment."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fedllm.config.kinds import KINDS
from fedllm.config.yaml_text import read_yaml

TaskKind = Literal["classification", "chat", "summarization", "text"]
NEW_KINDS: tuple[TaskKind, ...] = get_args(TaskKind)
PUBLIC = "public.jsonl"  # the coordinator's public records, in the folder of the file


@dataclass(frozen=True)
class _Start:
    """The first settings of a new file, for one kind of task."""

    fields: tuple[tuple[str, str, str], ...]  # key of `task.fields`, field of a record, example value
    template: str
    meaning: str  # comment on the template
    max_length: int  # tokens
    lr: str


_STARTS: dict[TaskKind, _Start] = {
    "classification": _Start(
        (("text", "text", "…"), ("label", "label", "")),
        "Text: {text}\nLabel:",
        "the prompt, which the answer follows",
        128,
        "4.0e-3",
    ),
    "chat": _Start(
        (("text", "question", "…"), ("answer", "answer", "…")),
        "{text}",
        "the prompt, in the base model's own chat format where it has one",
        512,
        "2.0e-3",
    ),
    "summarization": _Start(
        (("text", "text", "…"), ("answer", "summary", "…")),
        "{text}\n\nSummary:",
        "the prompt, which the answer follows",
        1024,
        "2.0e-3",
    ),
    "text": _Start(
        (("text", "text", "…"),), "{text}", "what the model learns to continue, all of it", 512, "2.0e-3"
    ),
}


def example_record(kind: TaskKind, labels: Sequence[str]) -> str:
    """Return an example record as a line of a data file."""
    record = {field: value or labels[0] for _, field, value in _STARTS[kind].fields}
    return json.dumps(record, ensure_ascii=False)


def federation_text(name: str, kind: TaskKind, labels: Sequence[str], base: str) -> str:
    """Return the text of a federation file without a `simulation`.

    Args:
        name: the federation's name.
        kind: the kind of its task.
        labels: at least two for a classification; each becomes its own answer.
        base: the base model.

    Returns:
        YAML with comments.
    """
    chosen = _STARTS[kind]
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
            f"  patience: 2  # rounds without a better {KINDS[kind].metric}, after which a training ends",
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


def _task(kind: TaskKind, chosen: _Start, labels: Sequence[str]) -> list[str]:
    fields = ", ".join(f"{name}: {field}" for name, field, _ in chosen.fields)
    lines = [
        "task:",
        f"  kind: {kind}",
        f"  # A record is a line of JSON such as {example_record(kind, labels)}.",
        f"  fields: {{{fields}}}  # left: as the template names it; right: as the records do",
    ]
    if KINDS[kind].labels:
        lines += [
            "  # Left: a record's label. Right: what the model answers, each beginning with another token.",
            "  labels:",
            *(f"    {_quoted(label)}: {_quoted(f' {label}')}" for label in labels),
        ]
    return [
        *lines,
        f"  template: {_quoted(chosen.template)}  # {chosen.meaning}",
        f"  max_length: {chosen.max_length}  # tokens of a record; what is longer is cut",
    ]


def _quoted(text: str) -> str:
    """Return a text as a YAML scalar, quoted if YAML would read it as anything else, such as `yes`."""
    plain = re.fullmatch(r"[A-Za-z][\w./@-]*", text) is not None and read_yaml(text) == text
    return text if plain else json.dumps(text, ensure_ascii=False)
