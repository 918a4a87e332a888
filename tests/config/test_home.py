"""What a half restored home is, and who is in it."""

from pathlib import Path

import pytest

from fedllm.config.home import RESTORING, refuse_half_restored
from fedllm.errors import BackupError


def test_a_folder_below_a_half_restored_home_is_refused_wherever_fedllm_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    site = tmp_path / "rehearsal" / "sites" / "mill"
    site.mkdir(parents=True)
    (tmp_path / "rehearsal" / RESTORING).touch()
    (tmp_path / "link").symlink_to(site)
    for place in (site, tmp_path / "link", tmp_path / "rehearsal"):
        with pytest.raises(BackupError, match=f"^{tmp_path}/rehearsal is half restored"):
            refuse_half_restored(place)
    refuse_half_restored()
    refuse_half_restored(tmp_path / "elsewhere")


def test_a_folder_of_that_name_beside_a_home_says_nothing(tmp_path: Path) -> None:
    (tmp_path / RESTORING).mkdir()
    refuse_half_restored(tmp_path / "home")
