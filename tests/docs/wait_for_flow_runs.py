"""Wait for the COUNT deployments' runs that somebody asked for: `python wait_for_flow_runs.py COUNT`."""

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
    deployed = {"flow_runs": {"deployment_id": {"is_null_": False}}, "limit": 200}
    while time.monotonic() < ends:
        found = [run for run in api.call("/flow_runs/filter", deployed) if not run["auto_scheduled"]]
        states = [run["state"]["type"] for run in found]
        if bad := {"FAILED", "CRASHED"} & set(states):
            sys.stderr.write(f"a flow run is {bad}\n")
            return 1
        if len(states) >= wanted and set(states) == {"COMPLETED"}:
            return 0
        time.sleep(0.5)
    sys.stderr.write(f"after {LONGEST} s the flow runs are {states}, not {wanted} completed ones\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
