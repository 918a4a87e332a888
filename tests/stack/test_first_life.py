"""`fedllm up && fedllm doctor --json && fedllm down` on a fresh home, as processes of their own."""

import os

from tests.stack.conftest import FirstLife

EXPECTED = {
    *("python", "packages", "juicefs", "home", "disk", "disk cache", "disk temp", "model cache", "keys"),
    *("minio", "door", "prefect", "mlflow", "prefect version", "mlflow version", "work pool", "worker"),
    *("deployments", "automations", "flow runs", "mlflow database", "mlflow accounts", "prefect database"),
    *("store folder", "store", "site users", "sites", "journal", "lease", "clock"),
}


def test_every_check_is_green_on_a_fresh_stack(first_life: FirstLife) -> None:
    assert first_life.up["status"] == "up"
    assert first_life.doctor["schema"] == "fedllm.doctor/1"
    assert [check for check in first_life.doctor["checks"] if check["status"] != "ok"] == []
    assert {check["name"] for check in first_life.doctor["checks"]} == EXPECTED
    assert (first_life.doctor["status"], first_life.doctor["exit_code"]) == ("ok", 0)


def test_up_and_doctor_take_less_than_a_minute_where_nothing_else_runs(first_life: FirstLife) -> None:
    beside = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1
    busy = beside or os.getloadavg()[1] > 2 * (os.cpu_count() or 1)
    assert busy or first_life.seconds < 60


def test_no_process_and_no_port_is_left_after_down(first_life: FirstLife) -> None:
    assert (first_life.down["status"], first_life.down["exit_code"]) == ("down", 0)
    assert first_life.left == []
    assert first_life.listening == []


def test_the_doctor_made_nothing_of_a_coordinators_or_a_cache(first_life: FirstLife) -> None:
    assert first_life.made == ["stack"]
