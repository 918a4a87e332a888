"""Turn failures of S3 calls into fedllm's errors with one line of text, and decide which to retry."""

from email.utils import parsedate_to_datetime

import urllib3
from minio import time as signing_time
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from fedllm.errors import AccessDeniedError, ExchangeError, ObjectNotFoundError, VoidKeysError
from fedllm.secure.trust import why_untrusted

FAILURES = (MinioException, urllib3.exceptions.HTTPError, OSError, ValueError)  # raised by the SDK's calls

_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled"}
_VOID = {"InvalidAccessKeyId", "SignatureDoesNotMatch"}
_SKEWED, _TOLERATED = "RequestTimeTooSkewed", 900.0  # s; S3 refuses signatures with a larger offset
_BEHIND = {502, 503, 504}  # the door answers, but not the store behind it
_BUSY = {"SlowDown", "SlowDownRead", "SlowDownWrite", "RequestTimeout", "InternalError", "ServiceUnavailable"}


def exchange_error(error: Exception, what: str, endpoint: str, bucket: str = "") -> ExchangeError:
    """Return the fedllm error to raise for a failure.

    Args:
        error: one of `FAILURES`.
        what: the key or other subject of the call.
        endpoint: of the store.
        bucket: the store's bucket, named if it does not exist.
    """
    if isinstance(error, S3Error):
        if error.code == "NoSuchBucket":
            return ExchangeError(f"{endpoint} has no bucket {bucket!r}: create it")
        if error.code == "NoSuchKey":
            return ObjectNotFoundError(f"{what} is not in the store")
        if (off := _clock_off(error)) is not None:
            return ExchangeError(f"this machine's clock is {off:.0f} s from the store's: set it (NTP)")
        if error.code in _DENIED:
            refused = VoidKeysError if error.code in _VOID else AccessDeniedError
            return refused(f"{what}: the store refused ({error.code}){_advice(error.code)}")
        return ExchangeError(f"{what}: the store answered {error.code}: {error.message}")
    message = f"{what}: {error}"
    if isinstance(error, urllib3.exceptions.HTTPError) or status_of(error) in _BEHIND:
        message = f"{endpoint} does not answer ({type(error).__name__}): is it up and reachable?"
    if why := why_untrusted(error):
        message = f"{endpoint} is not trusted: {why}"
    return ExchangeError(message)


def _advice(code: str) -> str:
    """Return the meaning of refused keys and what each party should do; "" for other codes."""
    meaning = {
        "InvalidAccessKeyId": "it knows no such access key",
        "SignatureDoesNotMatch": "the secret key is not that of the access key",
    }.get(code)
    if meaning is None:
        return ""
    return (
        f": {meaning}; a site asks for a new invitation, a coordinator corrects FEDLLM_ACCESS_KEY and "
        "FEDLLM_SECRET_KEY (`fedllm up` provides those of the local stack)"
    )


def _clock_off(error: S3Error) -> float | None:
    """Return our clock's offset in s if that is why the store refused; else None."""
    if error.code != _SKEWED and error.code not in _DENIED:  # the answer to a HEAD has no error code
        return None
    try:
        theirs = parsedate_to_datetime(error.response.headers["Date"])
    except (KeyError, TypeError, ValueError):
        return None
    off = abs((signing_time.utcnow() - theirs).total_seconds())
    return off if error.code == _SKEWED or off > _TOLERATED else None


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of a failed answer; None if there was no answer."""
    if isinstance(error, S3Error):
        return error.response.status
    if isinstance(error, ServerError):
        return error.status_code
    return error._code if isinstance(error, InvalidResponseError) else None  # noqa: SLF001 - no public access


def may_pass(error: Exception) -> bool:
    """Return whether the same call may succeed a moment later."""
    if isinstance(error, S3Error) and error.code in _BUSY:
        return True
    if isinstance(error, (ServerError, InvalidResponseError, S3Error)):
        return (status_of(error) or 0) >= 500  # noqa: PLR2004 - HTTP's server errors
    return isinstance(error, urllib3.exceptions.HTTPError) and not isinstance(
        error, (urllib3.exceptions.LocationValueError, urllib3.exceptions.SSLError)
    )
