"""The doctor's checks run in threads; what they use is imported before, by one thread."""

import json
import sys

from fedllm.endpoints import Endpoints
from tests.stack.conftest import python

LOOK = """
import json, sys, threading
from pathlib import Path
from fedllm.config import load_federation
from fedllm.doctor.checkup import checkup

late, main = set(), threading.current_thread()


def note(event, arguments):
    if event == "import" and threading.current_thread() is not main:
        late.add(arguments[0])


sys.addaudithook(note)
names = [finding.name for finding in checkup(load_federation(Path("params.yaml")))]
print(json.dumps({"names": names, "late": sorted(late)}))
"""
BESIDE = {*sys.stdlib_module_names, "Crypto"}  # Crypto loads a cipher's mode at its first use


def test_no_thread_of_the_doctor_imports_a_library(fresh: Endpoints) -> None:
    done = python(fresh.home, "-c", LOOK)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"store", "site users", "sites", "journal", "lease", "deployments"} <= set(told["names"])
    assert [name for name in told["late"] if name.partition(".")[0] not in BESIDE] == []
