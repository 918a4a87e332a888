"""Check that the local stack's store answers before a call to MLflow that needs it."""

from fedllm.endpoints.addresses import endpoints
from fedllm.errors import TrackingError
from fedllm.stack.health import answers, health_urls

PATIENCE = 5.0  # s


def require_store(uri: str) -> None:
    """Check that the local stack's store answers, which has the files of MLflow's versions.

    MLflow would retry a store that is down for minutes; this takes seconds and imports nothing large.

    Args:
        uri: `tracking.uri` of a federation; only the stack's own MLflow is checked.

    Raises:
        TrackingError: the store does not answer.
    """
    stack = endpoints()
    if stack is None or uri.rstrip("/") not in {"auto", stack.mlflow_url}:
        return
    if not answers(health_urls(stack)["minio"], PATIENCE):
        raise TrackingError(
            f"the store at {stack.minio_url}, where MLflow keeps the files of versions, does not answer: "
            "`fedllm up` heals it"
        )
