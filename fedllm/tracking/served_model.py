"""The code of a registered version: MLflow runs this file unchanged (models from code, no pickle).

The version's folder holds `base.json` (name and fingerprint of the base model), `task.json` and `adapter/`,
a plain peft folder. The base itself is not copied: the machine that loads the version resolves it by name
and refuses it if its fingerprint differs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas  # noqa: ICN001 - MLflow reads the annotation
from mlflow.pyfunc import PythonModel, PythonModelContext


class FederatedAdapter(PythonModel):  # type: ignore[misc]
    """A base model with a federated adapter; predicts labels for a classification, text otherwise."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load base and adapter.

        Raises:
            ModelError: the base is missing, or not the one that the adapter was trained on.
        """
        from fedllm.config import TaskConfig
        from fedllm.tracking.loading import load_adapter

        artifacts = context.artifacts
        base = json.loads(Path(artifacts["base"]).read_text(encoding="utf-8"))
        self.task = TaskConfig.model_validate_json(Path(artifacts["task"]).read_text(encoding="utf-8"))
        adapter = Path(artifacts["adapter"])
        self.learner = load_adapter(base["name"], base["sha256"], adapter, self.task)

    def predict(
        self,
        model_input: pandas.DataFrame,  # or a list or a mapping; with this hint MLflow infers no type
        params: Mapping[str, Any] | None = None,  # noqa: ARG002 - MLflow's interface
    ) -> list[str]:
        """Answer every row.

        Args:
            model_input: a DataFrame with the task's columns, a list of texts or of mappings, or a mapping
                from column to text or texts.
            params: ignored.

        Raises:
            ModelError: a column that the template needs is missing.
        """
        from fedllm.tracking.loading import as_records
        from fedllm.training.evaluate import predict

        records = as_records(model_input, self.task)
        answers: Sequence[str] = predict(self.learner, records) if records else []
        return list(answers)


mlflow.models.set_model(FederatedAdapter())
