"""One real federation for all that is read again by the second implementation."""

import json

import pytest

from tests.protocol.recorded import Recorded, record


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("federation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(folder / "home"))
        return record(folder)


@pytest.fixture(scope="session")
def pinned(federation: Recorded) -> str:
    """The coordinator's public key as a site pinned it when it joined."""
    pin = json.loads((federation.home("east") / "coordinator-fed.json").read_text())
    return str(pin["verify"])
