"""Real trainings of the tiny model, in one process, whose journals stay for a test to look at.

`python -m tests.report.trained FOLDER` plays one there, and writes its federation as params.yaml.
"""

import json
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import yaml

from fedllm.agent.job import Workbench
from fedllm.config import FederationConfig
from fedllm.coordinator.rounds import play
from fedllm.coordinator.steps import JournaledRunner
from fedllm.coordinator.training import Training, open_training
from fedllm.data.prepare import prepare
from fedllm.journal.facts import TrainingFacts
from fedllm.journal.journal import Journal
from fedllm.journal.training_facts import training_facts
from fedllm.simulation import _agent_thread, join

SITES = ["east", "north", "west"]
PRIVATE = {
    "privacy": {
        "unit": "record",
        "epsilon": 6,
        "delta": 1e-5,
        "clip": 0.5,
        "sampling_rate": 0.2,
        "noise_multiplier": 1.0,
    },
    "local": {"optimizer": "sgd", "lr": 0.2, "steps": 3, "batch_size": 6},
}


def configuration(folder: Path, name: str = "clinics", **changes: Any) -> FederationConfig:  # noqa: ANN401
    """Three sites with a corpus whose labels can be learnt from their words."""
    rng = random.Random(3)
    for part, count in (("corpus", 90), ("public", 60)):
        with (folder / f"{part}.jsonl").open("w") as out:
            for number in range(count):
                label = rng.choice(["positive", "negative"])
                words = " ".join(
                    rng.choices(["good", "fine"] if label == "positive" else ["bad", "poor"], k=4)
                )
                silo = SITES[number % 3]
                text = f"{silo} {words} {part} {number}"
                out.write(json.dumps({"id": str(number), "silo": silo, "text": text, "label": label}) + "\n")
    settings: dict[str, Any] = {
        "name": name,
        "model": {"base": "tiny"},
        "task": {"labels": {"positive": " positive", "negative": " negative"}, "template": "{text} :"},
        "evaluation": {"public": str(folder / "public.jsonl")},
        "rounds": {"max": 2, "deadline": "300s", "patience": None},
        "local": {"lr": 0.02, "steps": 4, "batch_size": 4},
        "store": {"url": f"file://{folder / 'store'}"},
        "simulation": {"source": str(folder / "corpus.jsonl"), "sites": SITES},
    }
    return FederationConfig.model_validate(settings | changes)


@contextmanager
def opened(
    config: FederationConfig,
    folder: Path,
    run: str = "run-1",
    policies: dict[str, dict[str, Any]] | None = None,
    *,
    agents: bool = True,
) -> Iterator[Training]:
    """A training with an agent a site, if any; `policies` changes those of single sites."""
    data = prepare(config, folder / "data")
    with ExitStack() as stack:
        bench, lock = Workbench(), threading.Lock()
        for name, records in data.sites.items():
            settings: dict[str, Any] = {"poll_near": 0.05, "poll_idle": 0.05}
            member = join(config, name, records, folder / "homes" / name, **settings)
            for key, value in (policies or {}).get(name, {}).items():
                policy = member.site.policy.model_copy(update={key: value})
                member.site.__dict__["policy"] = policy  # frozen: a test may
            if agents:
                stack.enter_context(_agent_thread(member, bench, lock))
        yield stack.enter_context(open_training(config, run, data.public))


def trained(
    config: FederationConfig,
    folder: Path,
    run: str = "run-1",
    play_it: Callable[[Training], object] = lambda training: play(training, JournaledRunner(training)),
    **options: Any,  # noqa: ANN401
) -> TrainingFacts:
    """Play a training to its end and tell what its journal holds of it."""
    with opened(config, folder, run, **options) as training:
        play_it(training)
    with closing(Journal(config.name)) as journal:
        return training_facts(journal, run)


if __name__ == "__main__":
    here = Path(sys.argv[1]).resolve()
    made = configuration(here, rounds={"max": 1, "deadline": "120s"})
    (here / "params.yaml").write_text(yaml.safe_dump(made.public_json()), encoding="utf-8")
    trained(made, here)
