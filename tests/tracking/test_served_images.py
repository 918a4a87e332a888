"""Published image models: whole, without a base to look for, and answering images in base64."""

import base64
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch

from fedllm.config import FederationConfig
from fedllm.errors import DataError, ModelError
from fedllm.models.base import resolve_base
from fedllm.models.vision import load_vision
from fedllm.tracking import RoundRelease, Tracker
from fedllm.tracking.answer import answer
from fedllm.tracking.fetch import Trust, open_model
from fedllm.tracking.package import check_adapter
from fedllm.training.evaluate import predict
from tests.review.reviewed import PIN, SIGNER

TASK = {
    "kind": "image",
    "fields": {"image": "picture", "label": "label"},
    "labels": {str(i): str(i) for i in range(10)},
    "template": "",
}
CONFIG = FederationConfig.model_validate(
    {"name": "digits", "model": {"base": "mnist-cnn", "adapter": {"method": "full"}}, "task": TASK}
)
# A white bar of four columns, further right in each.
BARS = [bytes(255 if 2 * i <= x < 2 * i + 4 else 0 for x in range(28)) * 28 for i in range(12)]
IMAGES = [base64.b64encode(pixels).decode() for pixels in BARS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CNN somewhere away from its start."""
    model = load_vision(resolve_base("mnist-cnn"))
    drawn = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(3))
    model.write(model.read() + 0.02 * drawn)
    folder = tmp_path_factory.mktemp("trained")
    model.save(folder)
    return folder


def test_mlflow_serves_a_published_image_model(
    mlflow_uri: str, trained: Path, make_release: Callable[..., RoundRelease], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_model(str(trained), CONFIG, None)
    expected = predict(folder.learner, IMAGES)
    assert len(set(expected)) > 1  # else nothing could be told apart
    release = make_release(
        "digits", task=TASK, base_name="mnist-cnn", base_sha256="c" * 64, adapter_folder=str(trained)
    )
    Tracker(mlflow_uri, SIGNER).publish(release)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    served = mlflow.pyfunc.load_model("models:/digits@challenger")
    info = mlflow.models.get_model_info("models:/digits@challenger")
    assert served.predict(pd.DataFrame({"picture": IMAGES})) == expected
    assert served.predict(IMAGES) == expected
    with pytest.raises(ModelError, match="'picture' is missing"):
        served.predict(pd.DataFrame({"image": IMAGES}))
    assert info.signature.inputs.input_names() == ["picture"]
    opened = open_model("models:/digits@challenger", CONFIG, mlflow_uri, Trust(PIN))
    assert predict(opened.learner, IMAGES) == expected
    assert answer(opened.learner, IMAGES[0]).text == expected[0]
    with pytest.raises(DataError, match="not base64"):
        answer(opened.learner, "three?")


def test_the_bare_base_answers_too() -> None:
    bare = open_model("zero-shot", CONFIG, None)
    assert set(predict(bare.learner, IMAGES)) <= set(TASK["labels"])


def test_a_folder_without_weights_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        check_adapter(str(tmp_path))
