"""`fedllm run` of which a backup is taken at one exact place, as a step begins; then it goes on.

Usage: backed_up_run.py ROUND STEP ARCHIVE [arguments of fedllm …]
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from fedllm.cli.main import main
from fedllm.journal.journal import Journal

number, step, archive = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.argv = ["fedllm", *sys.argv[4:]]
once = Journal.once


def backed_up_once(  # noqa: PLR0913, PLR0917 - as the original
    self: Journal, run: str, at: int, name: str, kind: type[Any], compute: Callable[[], Any]
) -> Any:  # noqa: ANN401
    def computed() -> Any:  # noqa: ANN401
        if at == number and name.startswith(step):
            subprocess.run(
                [sys.executable, "-m", "fedllm", "backup", archive, "--json"],
                check=True,
                stdout=sys.stderr,
            )
        return compute()

    return once(self, run, at, name, kind, computed)


Journal.once = backed_up_once  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
