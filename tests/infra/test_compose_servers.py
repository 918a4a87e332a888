"""The services of compose.yaml, run as it says, with its own health checks, users and passwords."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from playground_of_services import Services

from fedllm.backup.counters import EPOCHS, HEADS, ORIGIN, ROSTERS

ROOT = Path(__file__).parents[2]
SITES = ("harbour", "mill")
CURL = (
    "curl",
    "--silent",
    "--output",
    "/dev/null",
    "--write-out",
    "%{http_code}",
    "--cacert",
    "/run/tls/ca.crt",
)
# Alone on two cores all of it takes well under two minutes; beside other work it has taken ten.
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def federation(settings: dict[str, str]) -> Path:
    """The example federation, made small, and public records."""
    folder = Path(settings["FEDLLM_FEDERATION"])
    config = yaml.safe_load((ROOT / "infra" / "compose" / "federation.example.yaml").read_text())
    config["model"] = {"base": "tiny"}
    config["rounds"] |= {"max": 1, "patience": None, "join": "10m", "deadline": "15m"}
    config["local"] = {"lr": 0.01, "steps": 2, "batch_size": 2}
    (folder / "federation.yaml").write_text(yaml.safe_dump(config))
    records = [("a warm and gentle film", "positive"), ("a dull and bitter film", "negative")] * 3
    lines = [json.dumps({"text": f"{text} {n}", "label": label}) for n, (text, label) in enumerate(records)]
    (folder / "public.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def whole(services: Services, federation: Path) -> Services:
    """Everything up, in the order of the file."""
    assert federation.is_dir()
    services.up("postgres", "minio")
    services.up("door")
    services.up("provision")
    services.up("prefect", "mlflow")
    services.up("deployments")
    services.up("worker")
    return services


def test_every_health_check_says_that_its_server_is_there(whole: Services) -> None:
    for name in ("postgres", "minio", "door", "prefect", "mlflow", "worker"):
        whole.until_healthy(name)


def test_the_jobs_change_nothing_when_they_run_again(whole: Services) -> None:
    done = whole.run("provision")
    assert json.loads(done.stdout)["changed"] == []


@pytest.mark.parametrize("database", ["mlflow", "prefect", "journal", "postgres"])
def test_a_role_enters_its_own_database_by_tls_and_password_and_no_other(
    whole: Services, database: str
) -> None:
    asked = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"

    def enter(mode: str, *, entry: bool = True) -> subprocess.CompletedProcess[str]:
        url = f"postgresql://mlflow@postgres:5432/{database}?sslrootcert=/run/tls/ca.crt&sslmode={mode}"
        return whole.run("mlflow", "psql", "--no-psqlrc", "--no-password", "-tAc", asked, url, entry=entry)

    if database == "mlflow":
        assert enter("verify-full").stdout == "t\n"
        assert "no pg_hba.conf entry" in enter("disable").stderr
        assert "no password supplied" in enter("verify-full", entry=False).stderr
    else:
        assert "no pg_hba.conf entry" in enter("verify-full").stderr


def test_mlflows_keys_open_its_bucket_and_not_the_federations(whole: Services) -> None:
    code = (
        "import boto3, os; s3 = boto3.client('s3', endpoint_url=os.environ['MLFLOW_S3_ENDPOINT_URL']);"
        "s3.put_object(Bucket='mlflow', Key='mine', Body=b'1'); print('mine');"
        "s3.list_objects_v2(Bucket='fedllm')"
    )
    done = whole.run("mlflow", "python", "-c", code)
    assert done.stdout == "mine\n"
    assert "AccessDenied" in done.stderr


def test_prefect_and_mlflow_want_a_password_their_own_names_and_their_own_pages(whole: Services) -> None:
    flows = "https://prefect:4200/api/flows/count"
    runs = "https://mlflow:5000/api/2.0/mlflow/experiments/search?max_results=1"
    open_to_all = {
        url: whole.run("worker", *CURL, *how, url).stdout for url, how in ((flows, ("-XPOST",)), (runs, ()))
    }
    assert open_to_all == {flows: "401", runs: "401"}
    shell = 'exec "$@" --user "$PREFECT_API_AUTH_STRING" -XPOST'
    assert whole.run("worker", "sh", "-c", shell, "sh", *CURL, flows).stdout == "200"
    shell = 'exec "$@" --user "fedllm:$MLFLOW_TRACKING_PASSWORD"'
    assert whole.run("worker", "sh", "-c", shell, "sh", *CURL, runs).stdout == "200"
    for url in (runs, flows):
        assert whole.run("worker", *CURL, "--header", "Host: elsewhere.example", url).stdout == "403"
        assert whole.run("worker", *CURL, "--header", "Origin: https://localhost:8000", url).stdout == "403"


def test_prefect_has_a_page(whole: Services) -> None:
    page = ("curl", "--silent", "--fail", "--location", "--cacert", "/run/tls/ca.crt")
    done = whole.run("worker", *page, "--header", "Accept: text/html", "https://prefect:4200/")
    assert "<html" in done.stdout, done.stderr
    assert "UI will not be available" not in whole.log("prefect")


def test_a_database_is_saved_and_comes_back_whole_or_not_at_all(whole: Services) -> None:
    """The commands of docs/deploy.md, as `docker compose exec -T postgres` would run them."""

    def do(script: str) -> subprocess.CompletedProcess[str]:
        defined = 'database() { /run/postgres/database.sh "$@"; }; '
        return whole.run("postgres", "sh", "-euc", defined + script, entry=False)

    def ask(statements: str) -> str:
        return f"echo '{statements}' | database sql journal"

    assert do(ask("create table kept (what text); insert into kept values (1);")).returncode == 0
    for name in ("journal", "mlflow", "prefect"):
        listed = do(f"database save {name} > /tmp/{name}.dump; pg_restore --list /tmp/{name}.dump")
        assert "TABLE DATA" in listed.stdout, f"{name}: {listed.stderr}"
    emptied = ask("drop schema public cascade; create schema public;")
    there = ask("select what from kept; drop table kept;")
    told = do(f"database save journal > /tmp/dump; {emptied}; database load journal < /tmp/dump; {there}")
    assert told.stdout.split() == ["what", "------", "1", "(1", "row)"], told.stderr
    refused = do("database save mlflow > /tmp/dump; database load mlflow < /tmp/dump")
    assert refused.returncode != 0
    assert "already exists" in refused.stderr  # not into one that holds tables
    assert do(ask("create table half (a int); select 1/0;")).returncode != 0
    assert do(ask("select count(*) from half;")).returncode != 0  # it was not begun


def test_mlflows_database_is_upgraded_by_the_command_of_the_page(whole: Services) -> None:
    """MLflow itself refuses an older database; the page's command names the same one as the server's."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    ((command, url),) = re.findall(r"--no-deps mlflow (python -m mlflow db upgrade) \"(.+)\"", page)
    assert f"--backend-store-uri={url}" in whole.composed["services"]["mlflow"]["command"]
    done = whole.run("mlflow", *command.split(), url)
    assert done.returncode == 0, done.stderr


def test_nobody_believes_a_server_whose_authority_it_was_not_given(whole: Services) -> None:
    for at in ("minio.example:9000", "minio:9010", "prefect:4200", "mlflow:5000"):
        url = f"https://{at}"
        done = whole.run("worker", "curl", "--silent", "--show-error", url)
        assert done.returncode == 60, done.stderr  # curl's code for a certificate that it does not trust


def test_a_service_writes_to_its_volumes_alone(whole: Services) -> None:
    script = (
        "for at in / /run /federation /opt/fedllm; do touch $at/x 2>/dev/null && echo $at; done; touch ~/x"
    )
    done = whole.run("worker", "sh", "-c", f"{script} && touch /var/lib/fedllm/x && echo kept")
    assert done.stdout == "kept\n"


def test_a_site_joins_and_a_training_ends_with_a_version_in_mlflow(whole: Services, federation: Path) -> None:
    agents = []
    try:
        for site in SITES:
            folder = whole.ground / site
            folder.mkdir()
            shutil.copy(federation / "public.jsonl", folder / "records.jsonl")
            made = whole.outside(
                folder, "site", "init", site, "--data", "/srv/records.jsonl", "--base", "tiny"
            )
            assert subprocess.run(made, capture_output=True, check=True)
            shutil.copy(folder / "home" / "sites" / site / "card.json", federation / f"{site}.json")
            # As the registrar: `docker compose run --rm fedllm site add …`.
            added = whole.run(
                "fedllm", "fedllm", "site", "add", f"{site}.json", "--config", "federation.yaml"
            )
            assert added.returncode == 0, added.stderr
            shutil.copy(federation / f"{site}.invitation", folder)
            agents.append(
                subprocess.Popen(whole.outside(folder, "agent", f"--invitation=/srv/{site}.invitation"))
            )
        command = ("prefect", "deployment", "run", "federated-training/sentiment", "--watch")
        done = whole.run("worker", *command)  # `docker compose exec worker entry prefect …`
        assert done.returncode == 0, done.stdout + done.stderr + whole.log("worker")[-3000:]
    finally:
        for agent in agents:
            agent.terminate()
            agent.wait(120)
    code = (
        "import mlflow, json; there = mlflow.MlflowClient();"
        "v = there.get_model_version_by_alias('sentiment', 'challenger');"
        "print(json.dumps([v.tags['fed.sites'], v.tags['fed.round'], v.tags['dp.epsilon']]))"
    )
    told = whole.run("worker", "python", "-c", code)
    assert json.loads(told.stdout.splitlines()[-1]) == [",".join(SITES), "1", "not configured"], told.stderr


def test_a_restored_journals_numbers_are_raised_by_the_statements_of_the_page(whole: Services) -> None:
    page = (ROOT / "docs" / "backup.md").read_text()
    (raised,) = re.findall(r"```text\n(alter table federation .+?)```", page, flags=re.DOTALL)
    numbers = "select head_counter, roster::jsonb->>'roster_version', epoch from federation, lease;"
    script = "\n".join(
        f"/run/postgres/database.sh sql journal <<'SQL'\n{statements}\nSQL"
        for statements in ("\\t on\n" + numbers, raised, "\\t on\n" + numbers)
    )
    done = whole.run("postgres", "sh", "-euc", script, entry=False)
    before, after = (
        [int(number) for number in line.split("|")] for line in done.stdout.splitlines() if "|" in line
    )
    seconds = time.time() - ORIGIN
    rates = (HEADS, ROSTERS, EPOCHS)
    assert all(new > old for old, new in zip(before, after, strict=True)), done
    assert all(abs(seconds - new / rate) < 600 for new, rate in zip(after, rates, strict=True)), done


def test_no_log_of_a_server_holds_a_secret(whole: Services, settings: dict[str, Any]) -> None:
    secrets = [
        path.read_text().removeprefix("fedllm:") for path in Path(settings["FEDLLM_SECRETS"]).iterdir()
    ]
    assert len(secrets) == 11
    for name in whole.running:
        assert [secret for secret in secrets if secret in whole.log(name)] == [], name


def test_a_health_check_notices_that_its_server_is_gone(whole: Services) -> None:
    for name in ("worker", "mlflow", "prefect", "door", "minio", "postgres"):
        whole.stop(name)
        assert whole.health(name).returncode != 0, name
