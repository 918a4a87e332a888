"""Write a small federation into a folder: `python small_federation.py FOLDER SITE…`.

federation.yaml with a model that trains in milliseconds, public.jsonl, SITE.jsonl for every site, and
corpus.jsonl with the records of all sites, each in its silo.
"""

import json
import random
import sys
from pathlib import Path

import yaml

WORDS = {
    "negative": ["awful", "broken", "bitter", "dull"],
    "positive": ["wonderful", "bright", "gentle", "lovely"],
}


def write_records(path: Path, rng: random.Random, count: int) -> None:
    """Texts whose label can be learnt from their words."""
    with path.open("w", encoding="utf-8") as out:
        for number in range(count):
            label = rng.choice(sorted(WORDS))
            text = " ".join([path.stem, *rng.choices(WORDS[label], k=5), str(number)])
            record = {"id": f"r-{number}", "text": text, "label": label, "person": f"p-{number % 9}"}
            out.write(json.dumps(record) + "\n")


def main(folder: Path, sites: list[str]) -> None:
    """Write the files."""
    rng = random.Random(11)
    folder.mkdir(exist_ok=True)
    for name in [*sites, "public"]:
        write_records(folder / f"{name}.jsonl", rng, 40)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        for site in sites:
            for line in (folder / f"{site}.jsonl").read_text(encoding="utf-8").splitlines():
                corpus.write(json.dumps({"silo": site} | json.loads(line)) + "\n")
    config = {
        "name": "federation",
        "model": {"base": "tiny"},
        "task": {"labels": {label: f" {label}" for label in WORDS}, "template": "Text: {text}\nSentiment:"},
        "evaluation": {"public": str((folder / "public.jsonl").resolve())},
        "rounds": {
            "max": 2,
            "join": "10m",
            "deadline": "15m",
            "patience": None,
            "min_sites": min(2, len(sites)),
        },
        "local": {"lr": 0.01, "steps": 3, "batch_size": 4},
    }
    (folder / "federation.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
