"""One real federation for all that is read again by the second implementation."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fedllm.agent.join import Membership
from tests.protocol.private_federation import BY_RECORD, BY_SITE, elsewhere_before
from tests.protocol.recorded import Recorded, record


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return _recorded(tmp_path_factory.mktemp("federation"))


@pytest.fixture(scope="session")
def pinned(federation: Recorded) -> str:
    """The coordinator's public key as a site pinned it when it joined."""
    pin = json.loads((federation.home("east") / "coordinator-fed.json").read_text())
    return str(pin["verify"])


@pytest.fixture(scope="session")
def by_record(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A federation that hides records; one of its sites took part in another one before."""
    return _recorded(tmp_path_factory.mktemp("by-record"), BY_RECORD, elsewhere_before)


@pytest.fixture(scope="session")
def by_site(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A federation that hides sites; one of them declines, since its ledger counts by records."""
    return _recorded(tmp_path_factory.mktemp("by-site"), BY_SITE, elsewhere_before)


def _recorded(
    folder: Path,
    privacy: Mapping[str, object] | None = None,
    before: Callable[[Membership], None] | None = None,
) -> Recorded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(folder / "home"))
        return record(folder, privacy, before)
