"""What flow runs are called, in Prefect's list of them."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import names

CONFIG = "name: harbours\ntask: {kind: text, fields: {text: text}}\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    file = tmp_path / "fed.yaml"
    file.write_text(CONFIG)
    found = SimpleNamespace(name="amber-fox", parameters={"config_uri": str(file)})
    monkeypatch.setattr(names, "flow_run", found)
    return found


def test_a_new_training_has_the_id_that_its_flow_run_is_named_after(run: SimpleNamespace) -> None:
    run.name = names.training_name()
    assert re.fullmatch(r"harbours \d{8}-\d{6}-[0-9a-f]{4}", run.name)
    assert run.name == f"harbours {names.fresh_run()}"


def test_one_that_goes_on_is_named_after_its_run(run: SimpleNamespace) -> None:
    run.parameters["run_id"] = "the-first"
    run.name = names.training_name()
    assert (run.name, names.fresh_run()) == ("harbours the-first", None)


def test_a_name_of_another_form_gives_no_id(run: SimpleNamespace) -> None:
    assert names.fresh_run() is None
    run.name = None
    assert names.fresh_run() is None


def test_a_review_names_its_version_and_other_runs_their_time(run: SimpleNamespace) -> None:
    assert names.review_name() == "harbours challenger"
    run.parameters["version"] = 3
    assert names.review_name() == "harbours version 3"
    assert re.fullmatch(r"harbours \d{8}-\d{6}", names.run_name())


def test_a_file_that_cannot_be_read_gives_its_own_name(run: SimpleNamespace) -> None:
    run.parameters["config_uri"] = "somewhere/absent.yaml"
    assert names.review_name() == "absent challenger"
