"""Print a key of the JSON object that ends what a verb said: `fedllm VERB --json | python said.py KEY`."""

import json
import sys

if __name__ == "__main__":
    sys.stdout.write(f"{json.loads(sys.stdin.read().splitlines()[-1])[sys.argv[1]]}\n")
