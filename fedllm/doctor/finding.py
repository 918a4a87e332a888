"""The finding of a check, and what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from fedllm.errors import FedllmError
from fedllm.text import one_line


@dataclass(frozen=True)
class Finding:
    """The result of a check; `warn` means that nothing stops now."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


def ok(name: str, detail: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(name, "ok", detail)


def warn(name: str, detail: str, remedy: str) -> Finding:
    """Return a finding that needs attention but stops nothing."""
    return Finding(name, "warn", detail, remedy)


def fail(name: str, detail: str, remedy: str) -> Finding:
    """Return a finding of something that does not work or is not safe."""
    return Finding(name, "fail", detail, remedy)


Check = Callable[[], Iterable[Finding]]


def tried(name: str, remedy: str, check: Check) -> list[Finding]:
    """Run a check and return its findings; an error in the check becomes a finding.

    Args:
        name: of the finding for an error.
        remedy: what to do about an error.
        check: the check.
    """
    findings: list[Finding] = []
    try:
        for finding in check():
            findings.append(finding)  # noqa: PERF402 - findings before an error count
    except (FedllmError, OSError) as error:
        findings.append(fail(name, one_line(str(error) or type(error).__name__), remedy))
    except Exception as error:  # noqa: BLE001 - an error in one check must not hide the others' findings
        findings.append(fail(name, one_line(f"{type(error).__name__}: {error}"), remedy))
    return findings
