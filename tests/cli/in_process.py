"""The command line in the tests' own process: what it imports is imported once."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest

from fedllm.cli.main import main

Done = subprocess.CompletedProcess[str]


def fedllm(*arguments: str | Path, folder: Path | None = None, **environment: str | Path) -> Done:
    """Run `fedllm ARGUMENTS` as a user does, in a folder, with these variables as well."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, str(value))
        if folder is not None:
            patch.chdir(folder)
        patch.setattr(sys, "argv", ["fedllm", *map(str, arguments)])
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
    code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())
