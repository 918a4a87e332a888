"""Start a program of the stack once what is left of its predecessor is gone: `alone.py NAME COMMAND …`.

supervisord starts a program again when its process dies, and knows nothing of that process' children.
"""

import os
import sys

from fedllm.stack.place import Place
from fedllm.stack.supervise import end, leftovers


def main() -> None:
    """End the leftovers, then become the command."""
    name, *command = sys.argv[1:]
    end(leftovers(Place.here(), name))
    os.environ["FEDLLM_PROGRAM"] = name
    os.execvp(command[0], command)  # noqa: S606 - the command that supervisord's configuration holds


if __name__ == "__main__":
    main()
