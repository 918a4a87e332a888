"""A real MLflow server on SQLite, and the smallest adapter that peft can load."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedllm.tracking import RoundRelease

TASK: dict[str, Any] = {
    "kind": "classification",
    "fields": {"text": "text", "label": "label"},
    "labels": {"positive": " positive", "negative": " negative"},
    "template": "Text: {text}\nSentiment:",
    "max_length": 64,
}
CONFIG: dict[str, Any] = {"name": "sentiment", "local": {"lr": 0.001, "steps": 15}, "task": TASK}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "1"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
    try:
        _wait(server, uri, folder / "log")
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait(server: subprocess.Popen[bytes], uri: str, log: Path) -> None:
    deadline = time.monotonic() + 480
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2).close()  # noqa: S310 - loopback
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"mlflow server did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def bare_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter's two files; enough where nothing loads it."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("bare")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file({"weight": torch.ones(4)}, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def make_release(bare_adapter: Path) -> Callable[..., RoundRelease]:
    """Make a release of its own federation; the name keeps tests on one server apart."""

    def make(federation: str, number: int = 1, **changes: Any) -> RoundRelease:  # noqa: ANN401 - any field
        fields: dict[str, Any] = {
            "federation": federation,
            "run": "run-a",
            "round": number,
            "sites": ("amazon", "movies"),
            "model_sha256": f"{number:064x}",
            "base_name": "tiny",
            "base_sha256": "b" * 64,
            "adapter_folder": str(bare_adapter),
            "task": TASK,
            "config": CONFIG,
            "metrics": {"loss": 0.4, "accuracy": 0.875, "accuracy/amazon": 0.9, "accuracy/movies": 0.85},
            "baseline": {"loss": 0.6, "accuracy": 0.8, "accuracy/amazon": 0.78},
            "site_rows": [
                {"site": "amazon", "examples": 240, "steps": 15, "weight": 2985, "verdict": "pass"},
                {"site": "movies", "examples": 240, "steps": 15, "weight": 9000, "verdict": "pass"},
            ],
        }
        return RoundRelease(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def local_mlflow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MLflow without a server: its SQLite store, in this process."""
    return f"sqlite:///{tmp_path_factory.mktemp('local-mlflow') / 'mlflow.db'}"
