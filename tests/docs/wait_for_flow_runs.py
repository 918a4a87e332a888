"""Wait for COUNT completed flow runs in Prefect, and none under way: `python wait_for_flow_runs.py COUNT`."""

import os
import sys
import time

from fedllm.stack.health import PrefectApi

LONGEST = 600  # s


def main(wanted: int) -> int:
    """Exit code 1 when one failed, or when it takes too long."""
    ends = time.monotonic() + LONGEST
    api = PrefectApi(os.environ["PREFECT_API_URL"])
    states: list[str] = []
    while time.monotonic() < ends:
        found = api.call("/flow_runs/filter", {"limit": 200})
        states = [run["state"]["type"] for run in found]
        if bad := {"FAILED", "CRASHED"} & set(states):
            sys.stderr.write(f"a flow run is {bad}\n")
            return 1
        if states.count("COMPLETED") >= wanted and not {"RUNNING", "PENDING"} & set(states):
            return 0
        time.sleep(0.5)
    sys.stderr.write(f"after {LONGEST} s the flow runs are {states}, not {wanted} completed ones\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
