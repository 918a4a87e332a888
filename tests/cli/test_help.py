import os
import subprocess
import sys


def test_help_answers_at_once_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['fedllm', '--help']\n"
        "from fedllm.cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'prefect', 'minio', 'numpy', 'sqlalchemy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_takes_less_than_half_a_second_of_a_quiet_machine() -> None:
    def seconds() -> float:
        began = os.times()
        subprocess.run([sys.executable, "-m", "fedllm", "--help"], capture_output=True, check=True)
        ended = os.times()  # what it took of a processor: other work on this machine does not count
        return ended.children_user + ended.children_system - began.children_user - began.children_system

    assert min(seconds() for _ in range(5)) < 0.5
