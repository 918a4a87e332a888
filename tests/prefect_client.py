"""This process as a client of a stack's Prefect, whatever its settings were when Prefect was imported."""

from contextlib import AbstractContextManager
from typing import Any

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from fedllm.stack import Endpoints


def speaking_with(stack: Endpoints) -> AbstractContextManager[Any]:
    """Settings with the stack's address and its password."""
    password = stack.passwords.prefect_auth if stack.passwords else None
    return temporary_settings(
        updates={PREFECT_API_URL: stack.prefect_api_url, PREFECT_API_AUTH_STRING: password}
    )
