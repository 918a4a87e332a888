"""Run `fedllm data anonymize`, and return its result as JSON and as text."""

from collections.abc import Sequence
from pathlib import Path

from fedllm.data.anonymize import KEY, anonymize_file
from fedllm.data.personal import Finder
from fedllm.errors import ConfigError

Answer = tuple[dict[str, object], str]


def key_file(home: Path | None, key: Path | None) -> Path:
    """Return the path of the pseudonyms' key. Raises `ConfigError`, `IdentityError`."""
    from fedllm.agent.join import only_home

    if home is not None and key is not None:
        raise ConfigError("--key takes the place of the home's key: give one of --home and --key")
    return key or (home or only_home()) / KEY


def anonymized(
    source: Path | None, target: Path | None, fields: Sequence[str], finder: Finder, file: Path
) -> Answer:
    """Anonymise one file into another, and return the result as JSON and as text."""
    if source is None or target is None:
        raise ConfigError("name the records and where they go: fedllm data anonymize IN OUT, or --measure")
    counts, drawn = anonymize_file(source, target, fields, finder, file)
    text = ", ".join(f"{count} {entity}" for entity, count in sorted(counts.items())) or "nothing was found"
    payload: dict[str, object] = {
        "schema": "fedllm.data-anonymize/1",
        "path": str(target),
        "replaced": dict(sorted(counts.items())),
        "key": str(file),
        "drawn": drawn,
        "differential_privacy": False,
    }
    lines = [f"{target}: {text}"]
    if drawn:
        lines.append(f"drew a key, {file}: once it is lost, the same values get other pseudonyms")
    lines.append("what was not found stays, names on no list among it: no guarantee, no differential privacy")
    return payload, "\n".join(lines)


def measured(finder: Finder) -> Answer:
    """Measure the finder on planted values, and return the result as JSON and as text."""
    from fedllm.bench.planted import RULE, Score, corpus, measure

    name, texts = corpus()
    scores = measure(finder, texts)
    overall = sum(scores.values(), Score())
    payload: dict[str, object] = {
        "schema": "fedllm.data-anonymize-measure/1",
        "texts": name,
        "rule": RULE,
        "f1": overall.f1,
        "overall": overall.json(),
        "entities": {kind: score.json() for kind, score in scores.items()},
    }
    lines = [
        f"{'':8} {'planted':>8}{'found':>7}{'right':>7}{'precision':>11}{'recall':>8}{'F1':>8}{'hidden':>8}"
    ]
    lines += [
        f"{kind:8} {score.planted:>8}{score.found:>7}{score.right:>7}{score.precision:>11.3f}"
        f"{score.recall:>8.3f}{score.f1:>8.3f}{score.share_hidden:>8.3f}"
        for kind, score in {**scores, "overall": overall}.items()
    ]
    lines += [
        f"texts: {name}; {RULE}",
        "hidden: no character of the value is left, whatever it was taken for",
        "names are found from a list alone and are not measured; your own data will differ",
    ]
    return payload, "\n".join(lines)
