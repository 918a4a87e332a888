"""`python -m fedllm` is `fedllm`."""

from fedllm.cli.main import main

if __name__ == "__main__":
    main()
