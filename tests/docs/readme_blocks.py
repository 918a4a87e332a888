"""What the test of README does beside typing its blocks; the page itself holds no remarks for it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Treatment:
    """How the test treats the one block that begins with certain words."""

    block: str  # the first words of the block
    before: str = ""  # commands that prepare it
    how: Literal["block", "instead", "not run"] = "block"
    instead: str = ""  # commands that stand in for it
    reason: str = ""  # why it is not run as it stands


# The demo trains a real model and takes minutes. The later federations train one that takes milliseconds, on
# records whose label their words give away; what is typed stays the same.
README_BLOCKS = [
    Treatment(
        "make demo",
        how="instead",
        instead="fedllm demo --set rounds.max=1 --set local.steps=1 --set evaluation.limit=3",
        reason="the set-up made the environment that this test runs in, and a whole demo takes eight minutes",
    ),
    Treatment("fedllm new clinics", before="python tests/docs/small_federation.py . harbour mill"),
    Treatment(
        "fedllm site init harbour",
        before="sed -i -e 's/base: .*/base: tiny/' -e 's/  max: 3/  max: 1/' clinics.yaml",
    ),
    Treatment(
        "fedllm plan-privacy",
        before="sed -i -e 's/base: smollm2-135m/base: tiny/' -e 's/, layers: .18.*}/}/'"
        r" -e 's/limit: [^}]*/limit: 5/' -e 's/steps: [0-9]*/steps: 2/'"
        r" -e 's/sites: \[amazon.*\]/sites: [amazon, movies]/'"
        " -e 's/min_sites: 4/min_sites: 2/' examples/sentiment_dp.yaml",
    ),
    Treatment(
        "fedllm demo | new NAME",
        how="instead",
        instead="python tests/docs/every_verb.py README.md",
        reason="this block lists the verbs, and each of them is asked for its help",
    ),
    Treatment(
        "make check",
        how="not run",
        reason="it is the test suite itself, and CI runs make lint and make docs beside it",
    ),
]
