"""What `make release` says of a wheel."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from infra.provenance import statement

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.servers  # git's own processes


def test_a_wheel_is_named_with_its_hash_its_commit_and_what_else_went_into_it(tmp_path: Path) -> None:
    wheel = tmp_path / "fedllm-0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    said = statement(wheel)
    assert said["subject"] == [
        {"name": wheel.name, "digest": {"sha256": hashlib.sha256(b"wheel").hexdigest()}}
    ]
    built = said["predicate"]["buildDefinition"]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert built["externalParameters"]["commit"] == head.strip()
    known = {entry["uri"]: entry["digest"] for entry in built["resolvedDependencies"]}
    assert known["constraints.txt"] == {
        "sha256": hashlib.sha256((ROOT / "constraints.txt").read_bytes()).hexdigest()
    }


def test_what_draws_the_bill_of_materials_is_pinned() -> None:
    asked = re.findall(r"--from (\S+)", (ROOT / "Makefile").read_text())
    pinned = re.findall(r"^(\S+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert asked == ["cyclonedx-bom"]
    assert set(asked) <= set(pinned)
