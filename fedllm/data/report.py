"""Report each site's records: counts by label and text lengths, as JSON and as a figure."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fedllm.config import FederationConfig
from fedllm.data.prepare import layout
from fedllm.data.records import Record, content, read_records, write_bytes


def report(config: FederationConfig, folder: Path, out: Path) -> dict[str, Any]:
    """Write `data.json` and `data.png` about prepared data.

    Args:
        config: the federation.
        folder: that `prepare` wrote.
        out: folder of the report.

    Returns:
        `{"sites": {name: {"count", "labels", "words"}}, "public": {…}, "overlap": 0}`; `words` holds
        mean, median, p95 and max of words per text, `overlap` counts public texts that a site also holds.

    Raises:
        DataError: the data are missing.
    """
    prepared = layout(config, folder)
    held = {name: read_records(path) for name, path in prepared.sites.items()}
    public = read_records(prepared.public)
    public_texts = {content(record) for record in public}
    summary: dict[str, Any] = {
        "sites": {name: _summary(records) for name, records in held.items()},
        "public": _summary(public),
        "overlap": sum(content(record) in public_texts for records in held.values() for record in records),
    }
    write_bytes(out / "data.json", (json.dumps(summary, indent=1, sort_keys=True) + "\n").encode())
    _draw(summary, out / "data.png")
    return summary


def _summary(records: list[dict[str, str]]) -> dict[str, Any]:
    words = np.array([len(content(record).split()) for record in records])
    return {
        "count": len(records),
        "labels": dict(sorted(Counter(_label(record) for record in records).items())),
        "words": {
            "mean": round(float(words.mean()), 1),
            "median": float(np.median(words)),
            "p95": float(np.percentile(words, 95)),
            "max": int(words.max()),
        },
    }


def _label(record: Record) -> str:
    return record.get("label", "unlabelled")


def _draw(summary: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    parts = {**summary["sites"], "public": summary["public"]}
    names = list(parts)
    labels = sorted({label for part in parts.values() for label in part["labels"]})
    figure = Figure(figsize=(10, max(2.5, 0.5 * len(names) + 1.5)), layout="constrained")
    held, lengths = figure.subplots(1, 2, sharey=True)
    start = np.zeros(len(names))
    for label in labels:
        counts = np.array([parts[name]["labels"].get(label, 0) for name in names])
        held.barh(names, counts, left=start, label=label)
        start += counts
    held.invert_yaxis()
    held.set_xlabel("records")
    held.set_title("records of each site")
    held.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=len(labels), frameon=False)
    lengths.barh(names, [parts[name]["words"]["mean"] for name in names], color="0.7", label="mean")
    lengths.plot([parts[name]["words"]["p95"] for name in names], names, "k|", markersize=14, label="95 %")
    lengths.set_xlabel("words per text")
    lengths.set_title("length of the texts")
    lengths.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file omits matplotlib's version, so that the same data give the same bytes.
    figure.savefig(path, dpi=110, metadata={"Software": None})
