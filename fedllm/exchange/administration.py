"""MinIO's calls for users and policies, with failures as fedllm's errors."""

from collections.abc import Callable
from typing import TypeVar

import stamina
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException

from fedllm.errors import AccessDeniedError, ExchangeError
from fedllm.exchange.failures import FAILURES, exchange_error
from fedllm.exchange.minio_store import http_pool, minio_client

T = TypeVar("T")

_STARTING = 60.0  # s that a server may take from its first answer until it has loaded its users


class AbsentError(ExchangeError):
    """The store has no such user or policy."""


class Administration:
    """Access to a store's users and policies, with keys that may change them.

    With `ca` (PEM), only certificates of that authority are trusted.
    """

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        region: str = "us-east-1",
        ca: str | None = None,
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.region = region
        self.pool = http_pool(self.endpoint, ca)
        minio_client(self.endpoint, region, access_key, secret_key, self.pool)  # raises on a bad endpoint
        self.admin = MinioAdmin(
            endpoint=self.endpoint.partition("://")[2],
            credentials=StaticProvider(access_key, secret_key),
            region=region,
            secure=self.endpoint.startswith("https://"),
            http_client=self.pool,
        )

    def do(self, call: Callable[[], T]) -> T:
        """Return the result of a call; retry while the server is starting.

        Raises:
            AbsentError: the store has no such user or policy.
            AccessDeniedError: these keys may not do it.
            ExchangeError: the server does not answer, is not trusted, or cannot do it.
        """
        try:
            for attempt in stamina.retry_context(
                on=_starting,
                attempts=None,
                timeout=_STARTING,
                wait_initial=0.1,
                wait_max=1.0,
                wait_jitter=0.1,
            ):
                with attempt:
                    return call()
        except MinioAdminException as error:
            raise self._refused(str(error)) from None
        except FAILURES as error:
            raise exchange_error(error, self.endpoint, self.endpoint) from None
        raise AssertionError("stamina either returns or raises")  # pragma: no cover

    def _refused(self, message: str) -> ExchangeError:
        if "XMinioAdminNoSuchUser" in message or "XMinioAdminNoSuchPolicy" in message:
            return AbsentError(f"{self.endpoint}: {message}")
        if "Status: 403" in message:
            return AccessDeniedError(f"{self.endpoint}: these keys may not manage users")
        return ExchangeError(f"{self.endpoint}: {message}")


def _starting(error: Exception) -> bool:
    return isinstance(error, MinioAdminException) and "not initialized" in str(error)
