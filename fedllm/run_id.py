"""The name of a run."""

import secrets
import time


def new_run_id() -> str:
    """A run's id: when it began, and enough chance to be alone."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)
