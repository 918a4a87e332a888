"""Published models, loaded back as a user would: by MLflow, and by plain peft."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from packaging.requirements import Requirement
from peft import PeftModel

from fedllm.config import AdapterConfig, TaskConfig, load_federation
from fedllm.errors import ModelError, TrackingError
from fedllm.models.adapter import attach
from fedllm.models.base import load_base, resolve_base
from fedllm.models.folder import fingerprint
from fedllm.tasks.load import causal_learner
from fedllm.tracking import RoundRelease, Tracker
from fedllm.tracking.answer import answer
from fedllm.tracking.fetch import Trust, fetch_version, open_model
from fedllm.tracking.loading import as_records
from fedllm.training.evaluate import predict
from tests.review.reviewed import PIN, SIGNER

TEXTS = [
    "a wonderful evening",
    "dull",
    "I would see it again",
    "what a waste of time",
    "fine",
    "not my taste at all",
]
Make = Callable[..., RoundRelease]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def adapter(cache: Path) -> Path:
    """An adapter on `tiny` that does change its answers."""
    model, _ = load_base(resolve_base("tiny"))
    adapted = attach(model, AdapterConfig(rank=4, alpha=32), seed=7)
    adapted.write(torch.randn(adapted.layout.size, generator=torch.Generator().manual_seed(10)))
    folder = cache / "adapter"
    adapted.save(folder)
    return folder


@pytest.fixture
def published(mlflow_uri: str, adapter: Path, make_release: Make, monkeypatch: pytest.MonkeyPatch) -> str:
    """`models:/served@challenger`; MLflow's address is the user's, in the environment, and no pickle."""
    base = fingerprint(resolve_base("tiny"))
    Tracker(mlflow_uri, SIGNER).publish(make_release("served", adapter_folder=str(adapter), base_sha256=base))
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    return "models:/served@challenger"


def by_peft(adapter: Path, task: TaskConfig) -> list[str]:
    model, tokenizer = load_base(resolve_base("tiny"))
    plain = PeftModel.from_pretrained(model, str(adapter)).eval()
    return predict(causal_learner(plain, tokenizer, task), TEXTS)


def test_what_it_requires_can_be_installed_on_another_machine(published: str, tmp_path: Path) -> None:
    file = mlflow.artifacts.download_artifacts(f"{published}/requirements.txt", dst_path=str(tmp_path))
    lines = [Requirement(line) for line in Path(file).read_text().splitlines()]
    assert {"mlflow", "torch", "transformers", "peft", "safetensors"} <= {line.name for line in lines}
    assert not [
        str(line) for line in lines if (line.url or "").startswith("file:") or "+" in str(line.specifier)
    ]
    # This fedllm was installed from a folder, which no other machine has.
    assert "fedllm" not in {line.name for line in lines}


def test_mlflow_loads_it_without_pickle_and_it_answers_as_plain_peft_does(
    published: str, adapter: Path, make_release: Make
) -> None:
    expected = by_peft(adapter, TaskConfig.model_validate(make_release("served").task))
    assert set(expected) == {"positive", "negative"}  # else the test could not tell the two apart
    model = mlflow.pyfunc.load_model(published)
    assert model.predict(pd.DataFrame({"label": ["?"] * 6, "text": TEXTS})) == expected
    assert model.predict(TEXTS) == expected
    assert model.predict({"text": TEXTS}) == expected
    assert model.predict([{"text": text} for text in TEXTS]) == expected
    with pytest.raises(ModelError, match="'text' is missing"):
        model.predict(pd.DataFrame({"words": TEXTS}))


def test_it_is_signed_for_the_tasks_columns_and_shows_an_example(published: str) -> None:
    info = mlflow.models.get_model_info(published)
    assert info.signature.inputs.input_names() == ["text"]
    assert info.saved_input_example_info is not None


@pytest.mark.servers
def test_a_fresh_process_that_knows_nothing_but_the_address_loads_it(published: str, mlflow_uri: str) -> None:
    code = (
        "import mlflow, sys\n"
        f"model = mlflow.pyfunc.load_model({published!r})\n"
        "print(*model.predict(['a wonderful evening', 'dull']), sep=',')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MLFLOW_TRACKING_URI": mlflow_uri, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=480,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(done.stdout.strip().split(",")) <= {"positive", "negative"}


def test_the_artifacts_folder_loads_in_plain_peft_and_no_file_is_a_pickle(
    published: str, adapter: Path, make_release: Make, tmp_path: Path
) -> None:
    folder = mlflow.artifacts.download_artifacts(f"{published}/artifacts/adapter", dst_path=str(tmp_path))
    task = TaskConfig.model_validate(make_release("served").task)
    assert by_peft(Path(folder), task) == by_peft(adapter, task)
    files = Path(mlflow.artifacts.download_artifacts(published, dst_path=str(tmp_path / "all"))).rglob("*")
    assert {file.suffix for file in files if file.is_file()} <= {
        "",
        ".py",
        ".json",
        ".yaml",
        ".yml",
        ".txt",
        ".safetensors",
    }


def test_another_base_under_the_same_name_is_refused(
    mlflow_uri: str, adapter: Path, make_release: Make, published: str
) -> None:
    assert published
    Tracker(mlflow_uri, SIGNER).publish(
        make_release("foreign", adapter_folder=str(adapter), base_sha256="0" * 64)
    )
    with pytest.raises(ModelError, match="adapter was trained on 000000000000"):
        mlflow.pyfunc.load_model("models:/foreign@challenger")


def test_opening_a_version_a_folder_and_the_bare_base_gives_models_that_answer(
    published: str, mlflow_uri: str, adapter: Path
) -> None:
    root = Path(__file__).parents[2]
    config = load_federation(root / "params.yaml", ["model.base=tiny"])
    registered = open_model(published, config, mlflow_uri, Trust(PIN))
    assert registered.name == "models:/served/1"
    said = answer(registered.learner, TEXTS[0])
    assert said.probabilities is not None
    assert sum(said.probabilities.values()) == pytest.approx(1)
    assert said.probabilities[said.text] == max(said.probabilities.values())
    plain = open_model(str(adapter), config, None)
    again = answer(plain.learner, TEXTS[0])
    assert again.text == said.text
    bare = open_model("zero-shot", config, None)
    assert answer(bare.learner, TEXTS[0]).probabilities != said.probabilities


def test_a_version_that_is_not_there_is_one_clear_line(mlflow_uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="nobody"):
        fetch_version(mlflow_uri, "models:/nobody@challenger", tmp_path, Trust(PIN))
    with pytest.raises(TrackingError, match="names no version"):
        fetch_version(mlflow_uri, "models:/nobody", tmp_path, Trust(PIN))


def test_rows_are_read_from_texts_mappings_and_tables_alike() -> None:
    task = TaskConfig(fields={"text": "body", "label": "y"}, labels={"a": " a", "b": " b"}, template="{text}")
    expected = [{"body": "x"}]
    for given in (
        "x",
        ["x"],
        {"body": "x"},
        {"body": ["x"]},
        [{"body": "x", "y": "a"}],
        pd.DataFrame({"body": ["x"]}),
    ):
        assert as_records(given, task) == expected
    with pytest.raises(ModelError, match="differ in length"):
        as_records({"body": ["x", "z"], "y": ["a"]}, task)
    with pytest.raises(ModelError, match="found int"):
        as_records([3], task)
