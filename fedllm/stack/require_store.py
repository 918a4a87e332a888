"""Whether the local stack's store answers, before anything is asked of MLflow that needs it."""

from fedllm.endpoints.addresses import endpoints
from fedllm.errors import TrackingError
from fedllm.stack.health import answers, health_urls

PATIENCE = 5.0  # s


def require_store(uri: str) -> None:
    """Make sure that the local stack's store answers, where its MLflow keeps the files of versions.

    MLflow would ask a store that is down for minutes; this takes seconds, and imports nothing large.

    Args:
        uri: `tracking.uri` of a federation; another MLflow than the stack's is not looked at.

    Raises:
        TrackingError: the store does not answer.
    """
    here = endpoints()
    if here is None or uri.rstrip("/") not in {"auto", here.mlflow_url}:
        return
    if not answers(health_urls(here)["minio"], PATIENCE):
        raise TrackingError(
            f"the store at {here.minio_url}, where MLflow keeps the files of versions, does not answer: "
            "`fedllm up` heals it"
        )
