"""Run `fedllm` as `python -m fedllm`."""

from fedllm.cli.main import main

if __name__ == "__main__":
    main()
