"""What the whole-run tests play with: three small organisations, and the command line as a user runs it."""

import json
import os
import random
import subprocess
from pathlib import Path

import warm_cli

SITES = ["clinic", "harbour", "mill"]
GOOD = ["wonderful", "bright", "gentle", "superb", "lovely"]
BAD = ["dreadful", "broken", "bitter", "awful", "dull"]
# How long is waited at the most: a wait ends as soon as what it is for has come.
PATIENCE = 900.0  # s for a command
TRAINING = 400.0  # s for a process to start and train
STEP = 300.0  # s for one thing on the way: a process starts, a server answers, a step is on record
SOON = 90.0  # s for what follows at once; Prefect gives a cancelled process 30 of them to end


def write_corpus(path: Path, per_site: int) -> None:
    """Texts whose label can be learnt from their words, in one silo a site."""
    rng = random.Random(5)
    with path.open("w") as out:
        for silo in SITES:
            for number in range(per_site):
                label = rng.choice(["positive", "negative"])
                words = rng.choices(GOOD if label == "positive" else BAD, k=rng.randint(2, 9))
                text = " ".join([silo, *words, str(number)])
                record = {"id": f"{silo}-{number}", "silo": silo, "text": text, "label": label}
                out.write(json.dumps(record) + "\n")


def fedllm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    done = warm_cli.run(*arguments, env=os.environ, timeout=PATIENCE)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask processes to end, and kill those that do not: a late one hides no other failure."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that fedllm says of an error; Prefect may still talk to stderr while it leaves."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("fedllm: ")]
    assert len(lines) == 1, done.stderr[-3000:]
    return lines[0]
