"""What infra/compose.yaml promises before any engine sees it, as Docker's own client reads it."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra" / "compose.yaml"
TEXT = FILE.read_text(encoding="utf-8")
EXAMPLE = (ROOT / "infra" / ".env.example").read_text(encoding="utf-8")
BUILT = "fedllm:0.1.0"
JOBS = {"ownership", "provision", "deployments", "fedllm"}  # they end by themselves
PINNED = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")

Compose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def each(composed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = composed["services"]
    assert len(services) == 9
    return services


def test_dockers_own_client_takes_the_file_without_a_warning(docker_compose: Compose) -> None:
    done = docker_compose("config", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", re.findall(r"^([A-Z_]+)=$", EXAMPLE, flags=re.MULTILINE))
def test_without_a_required_setting_nothing_starts_and_the_error_says_what_it_is(
    docker_compose: Compose, name: str
) -> None:
    done = docker_compose("config", "--quiet", **{name: None})
    assert done.returncode != 0
    assert re.search(rf"required variable {name} is missing a value: \w{{2,}}", done.stderr)


def test_every_image_is_pinned_by_digest_or_built_here(each: dict[str, dict[str, Any]]) -> None:
    foreign = {name: one["image"] for name, one in each.items() if one["image"] != BUILT}
    assert set(foreign) == {"ownership", "postgres", "minio"}
    assert [image for image in foreign.values() if not PINNED.fullmatch(image)] == []
    ours = [one for one in each.values() if one["image"] == BUILT]
    assert {one["pull_policy"] for one in ours} == {"never"}
    assert [one["build"]["dockerfile"] for one in ours if "build" in one] == ["infra/Dockerfile"]


def test_every_published_port_is_on_loopback_unless_somebody_says_otherwise(
    each: dict[str, dict[str, Any]],
) -> None:
    published = {
        (name, port["host_ip"], port["target"]) for name, one in each.items() for port in one.get("ports", ())
    }
    assert published == {
        ("minio", "127.0.0.1", 9000),
        ("prefect", "127.0.0.1", 4200),
        ("mlflow", "127.0.0.1", 5000),
    }


def test_every_server_has_a_health_check_and_every_job_ends(each: dict[str, dict[str, Any]]) -> None:
    assert {name for name, one in each.items() if "healthcheck" not in one} == JOBS
    for name, one in each.items():
        assert one["restart"] == ("unless-stopped" if name not in JOBS else one["restart"])
        assert (one["restart"] in {"no", "on-failure:3"}) == (name in JOBS), name


def test_everybody_waits_until_what_it_needs_is_there(each: dict[str, dict[str, Any]]) -> None:
    needs = {
        name: {
            other: how["condition"].removeprefix("service_")
            for other, how in one.get("depends_on", {}).items()
        }
        for name, one in each.items()
    }
    done, well = "completed_successfully", "healthy"
    assert needs == {
        "ownership": {},
        "postgres": {"ownership": done},
        "minio": {"ownership": done},
        "provision": {"minio": well},
        "prefect": {"postgres": well},
        "mlflow": {"postgres": well, "provision": done},
        "deployments": {"prefect": well},
        "worker": {"deployments": done, "postgres": well, "minio": well, "mlflow": well},
        "fedllm": {"provision": done, "postgres": well},
    }


def test_nobody_is_root_or_can_become_it_but_the_one_that_gives_volumes_away(
    each: dict[str, dict[str, Any]],
) -> None:
    for name, one in each.items():
        assert one["user"] == ("0:0" if name == "ownership" else "1000:1000"), name
        assert one.get("cap_add", []) == (["CHOWN"] if name == "ownership" else []), name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert one["read_only"] is True, name
        assert not {"privileged", "pid", "ipc", "devices"} & one.keys(), name
    assert each["ownership"]["network_mode"] == "none"


def test_everybody_has_limits_and_logs_that_end(each: dict[str, dict[str, Any]]) -> None:
    for name, one in each.items():
        assert one["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert one["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name


def test_the_database_is_on_a_network_of_its_own_and_publishes_nothing(
    composed: dict[str, Any], each: dict[str, dict[str, Any]]
) -> None:
    assert composed["networks"]["database"]["internal"] is True
    assert list(each["postgres"]["networks"]) == ["database"]
    inside = {name for name, one in each.items() if "database" in one.get("networks", {})}
    assert inside == {"postgres", "prefect", "mlflow", "worker", "fedllm"}


def test_each_is_given_the_secrets_that_it_needs_and_no_others(each: dict[str, dict[str, Any]]) -> None:
    given = {name: {one["source"] for one in service.get("secrets", ())} for name, service in each.items()}
    who = {
        secret: {name for name, has in given.items() if secret in has}
        for secret in set().union(*given.values())
    }
    assert who["minio-root"] == {"minio", "provision"}
    assert who["postgres"] == {"postgres"}
    assert who["store-registrar"] == {"provision", "fedllm"}
    assert who["server-key"] == {"minio", "postgres", "prefect", "mlflow"}
    for service in each.values():
        named = {
            Path(str(value)).name
            for key, value in service.get("environment", {}).items()
            if key.endswith("_FILE")
        }
        mounted = {one["source"] for one in service.get("secrets", ())}
        mounted |= {one["target"].rpartition("/")[2] for one in service.get("configs", ())}
        assert named <= mounted | {"ca.crt"}


def test_no_secret_is_in_the_file_or_has_a_default(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|AUTH_STRING|TOKEN", key):
                assert key.endswith("_FILE"), f"{name}: {key}"
                assert str(value).startswith("/run/secrets/"), f"{name}: {key}"
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{name}: {key} has a password in a URL"
        assert not re.search(r"://[^/@]*:[^/@]*@", " ".join(service.get("command") or ())), name
    assert {Path(one["file"]).parent.name for one in composed["secrets"].values()} == {"secrets", "ca"}


def test_the_authoritys_own_key_is_in_no_container(composed: dict[str, Any]) -> None:
    mounted = [one["file"] for kind in ("configs", "secrets") for one in composed[kind].values()]
    assert [file for file in mounted if file.endswith("ca.key")] == []
    assert len([file for file in mounted if file.endswith(("ca.crt", "server.crt", "server.key"))]) == 3


def test_the_example_of_settings_and_the_file_name_the_same_variables_and_defaults() -> None:
    used = {name: default for name, _, default in re.findall(r"\$\{([A-Z_]+)(:-([^}]*))?", TEXT)}
    used |= dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", TEXT))
    written = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE, flags=re.MULTILINE))
    assert written == used
    required = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert required == set(re.findall(r"^([A-Z_]+)=$", EXAMPLE, flags=re.MULTILINE))
