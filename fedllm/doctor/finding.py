"""What a check found, and what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from fedllm.errors import FedllmError
from fedllm.text import one_line


@dataclass(frozen=True)
class Finding:
    """One answer: `warn` is what stops nothing now."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


def ok(name: str, detail: str) -> Finding:
    """All is well."""
    return Finding(name, "ok", detail)


def warn(name: str, detail: str, remedy: str) -> Finding:
    """Nothing stops, and somebody should know."""
    return Finding(name, "warn", detail, remedy)


def fail(name: str, detail: str, remedy: str) -> Finding:
    """Something does not work, or is not safe."""
    return Finding(name, "fail", detail, remedy)


Check = Callable[[], Iterable[Finding]]


def tried(name: str, remedy: str, check: Check) -> list[Finding]:
    """What a check finds; where it cannot be made at all, that is the finding.

    Args:
        name: of the finding when the check ends with an error.
        remedy: what to do then.
        check: the check.
    """
    found: list[Finding] = []
    try:
        for finding in check():
            found.append(finding)  # noqa: PERF402 - what was found before an error counts
    except (FedllmError, OSError) as error:
        found.append(fail(name, one_line(str(error) or type(error).__name__), remedy))
    except Exception as error:  # noqa: BLE001 - a fault in one check must not hide what the others find
        found.append(fail(name, one_line(f"{type(error).__name__}: {error}"), remedy))
    return found
