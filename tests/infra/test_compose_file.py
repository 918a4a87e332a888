"""What infra/compose.yaml promises before any engine sees it, as Docker's own client reads it."""

import itertools
import json
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
BUILT = "fedllm:0.2.0"
JOBS = {"ownership", "provision", "deployments", "fedllm"}  # they end by themselves
PINNED = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")

Compose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def each(composed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = composed["services"]
    assert len(services) == 10
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


def test_every_command_of_the_page_has_a_service_and_options_that_the_client_knows(
    docker_compose: Compose, each: dict[str, dict[str, Any]]
) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    told = re.findall(r"docker compose -f infra/compose\.yaml ([^\n`|]+)", page)
    assert len(told) >= 15
    helps: dict[str, str] = {}
    for line in told:
        verb, *rest = line.split()
        helps[verb] = helps.get(verb) or docker_compose(verb, "--help").stdout
        known = set(re.findall(r"(?<![\w-])--?[\w-]+", helps[verb]))
        before = list(itertools.takewhile(lambda word: word not in each, rest))
        asked = {word for word in before if re.fullmatch(r"--?[A-Za-z-]+", word)}
        assert asked <= known, line
        if verb in {"run", "exec", "restart"}:
            assert len(before) < len(rest), f"no service: {line}"
    # By `… fedllm VERB` a verb would take the default, params.yaml, which is not there.
    verbs = re.findall(r"(?:run --rm fedllm|…) ((?:site add|doctor|events|gc|metrics)\b[^`\n]*)", page)
    assert len(verbs) == 5
    assert [verb for verb in verbs if "--config federation.yaml" not in verb] == []


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
        ("door", "127.0.0.1", 9000),
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
        "door": {"minio": well},
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


def test_root_is_refused_before_any_volume_is_given_away(docker_compose: Compose) -> None:
    done = docker_compose("config", "--format", "json", FEDLLM_UID="0", FEDLLM_GID="0")
    service = json.loads(done.stdout)["services"]["ownership"]
    # The client writes `$` as `$$`, as it stands in a file.
    command = [part.replace("$$", "$") for part in (*service["entrypoint"], *service["command"])]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "FEDLLM_UID is root" in refused.stderr
    chowned = [part.replace("0:0", "1000:1000") for part in command]
    taken = subprocess.run(chowned, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=False)
    assert "chown" in taken.stderr


def test_no_image_gives_a_volume_its_own_owner(each: dict[str, dict[str, Any]]) -> None:
    mounted = [
        (name, volume["source"], volume.get("volume", {}).get("nocopy"))
        for name, one in each.items()
        for volume in one.get("volumes", ())
        if volume["type"] == "volume"
    ]
    assert len(mounted) == 7
    assert [found for found in mounted if found[2] is not True] == []
    for name in ("worker", "fedllm"):
        # The volume's root has the engine's mode: keys lie in a folder that fedllm makes itself.
        assert each[name]["environment"]["FEDLLM_HOME"].startswith("/var/lib/fedllm/")


def test_prefect_copies_its_page_to_where_it_may_write(each: dict[str, dict[str, Any]]) -> None:
    at = each["prefect"]["environment"]["PREFECT_SERVER_UI_STATIC_DIRECTORY"]
    assert any(at.startswith(f"{mount.partition(':')[0]}/") for mount in each["prefect"]["tmpfs"])


def test_a_setting_moves_no_port_that_another_setting_relies_on(docker_compose: Compose) -> None:
    moved = {
        "FEDLLM_STORE_BIND": "192.0.2.7",
        "FEDLLM_STORE_PORT": "9001",
        "FEDLLM_PREFECT_BIND": "192.0.2.7",
        "FEDLLM_MLFLOW_BIND": "192.0.2.7",
        "FEDLLM_PREFECT_PORT": "4300",
        "FEDLLM_MLFLOW_PORT": "5300",
    }
    found = json.loads(docker_compose("config", "--format", "json", **moved).stdout)["services"]
    (store,), (prefect,), (mlflow,) = (found[name]["ports"] for name in ("door", "prefect", "mlflow"))
    assert (store["host_ip"], store["published"]) == ("192.0.2.7", "9000")  # inside it is 9000 too
    assert (prefect["host_ip"], mlflow["host_ip"]) == ("127.0.0.1", "127.0.0.1")
    assert f":{prefect['published']}/" in found["prefect"]["environment"]["PREFECT_SERVER_UI_API_URL"]
    hosts = found["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"]
    assert f"localhost:{mlflow['published']}" in hosts.split(",")


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
    for name in ("minio", "door", "postgres", "prefect", "mlflow"):
        assert who[f"key-{name}"] == {name}  # nobody else can pass for it
        assert f"certificate-{name}" in {one["source"] for one in each[name]["configs"]}
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
    folders = {Path(one["file"]).parent for one in composed["secrets"].values()}
    assert {folder.name for folder in folders} == {
        *("secrets", "minio", "door", "postgres", "prefect", "mlflow")
    }


def test_the_authoritys_own_key_is_in_no_container(composed: dict[str, Any]) -> None:
    mounted = [one["file"] for kind in ("configs", "secrets") for one in composed[kind].values()]
    assert [file for file in mounted if file.endswith("ca.key")] == []
    assert len([file for file in mounted if file.endswith(("ca.crt", "server.crt", "server.key"))]) == 11


def test_the_example_of_settings_and_the_file_name_the_same_variables_and_defaults() -> None:
    used = {name: default for name, _, default in re.findall(r"\$\{([A-Z_]+)(:-([^}]*))?", TEXT)}
    used |= dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", TEXT))
    written = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE, flags=re.MULTILINE))
    assert written == used
    required = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert required == set(re.findall(r"^([A-Z_]+)=$", EXAMPLE, flags=re.MULTILINE))
