"""infra/kubernetes as kubectl renders it with the overlays of docs/deploy.md."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from manifests import SIDES, Manifest, containers, named, pods

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kubernetes"
DOCS = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
VERSIONS = ("1.30", "1.37")  # the oldest and the newest that it is checked for


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest, rendered: dict[str, list[Manifest]]) -> list[Manifest]:
    return rendered[request.param]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_what_kubernetes_own_schema_says(side: list[Manifest], version: str) -> None:
    for one in side:
        kubernetes_validate.validate(one, version, strict=True)


def test_each_side_is_made_of_what_it_should_be(rendered: dict[str, list[Manifest]]) -> None:
    kinds = {side: sorted({one["kind"] for one in found}) for side, found in rendered.items()}
    assert kinds == {
        "coordinator": [
            "ConfigMap",
            "Deployment",
            "Job",
            "Namespace",
            "NetworkPolicy",
            "PersistentVolumeClaim",
            "Service",
        ],
        "site": ["ConfigMap", "Namespace", "NetworkPolicy", "StatefulSet"],  # no Service: nobody listens
    }


def test_no_secret_is_in_the_manifests(side: list[Manifest]) -> None:
    assert named(side, "Secret") == {}
    for _, pod in pods(side):
        for container in containers(pod):
            for variable in container.get("env", ()):
                if re.search(r"PASSWORD|SECRET|AUTH_STRING", variable["name"]):
                    assert variable["name"].endswith("_FILE")
                    assert variable["value"].startswith("/run/")


def test_all_is_in_one_namespace_that_takes_restricted_pods_alone(side: list[Manifest]) -> None:
    ((name, namespace),) = named(side, "Namespace").items()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {one["metadata"].get("namespace") for one in side if one["kind"] != "Namespace"} == {name}


def test_every_pod_keeps_to_the_restricted_profile_and_a_read_only_root(side: list[Manifest]) -> None:
    for name, pod in pods(side):
        shared = pod["spec"]["securityContext"]
        assert shared["runAsNonRoot"] is True, name
        assert shared["runAsUser"] > 1000, name
        assert shared["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys(), name
        assert {next(iter(v.keys() - {"name"})) for v in pod["spec"]["volumes"]} <= {
            "emptyDir",
            "configMap",
            "secret",
            "persistentVolumeClaim",
        }
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_key_files_of_mode_600_are_not_widened_at_every_mount(side: list[Manifest]) -> None:
    for name, pod in pods(side):
        assert pod["spec"]["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch", name
        for container in containers(pod):
            environment = {one["name"]: one.get("value", "") for one in container["env"]}
            kept = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "home"]
            for path in kept:
                assert environment["FEDLLM_HOME"].startswith(f"{path}/"), name


def test_every_container_has_requests_and_limits_and_an_image_by_digest(side: list[Manifest]) -> None:
    for name, pod in pods(side):
        for container in containers(pod):
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}, name
            assert re.fullmatch(r"registry\.example/fedllm@sha256:[0-9a-f]{64}", container["image"]), name


def test_every_server_is_probed(rendered: dict[str, list[Manifest]]) -> None:
    for deployment in named(rendered["coordinator"], "Deployment").values():
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["httpGet"]["port"] in ports


def test_every_selector_finds_the_pods_that_it_means(rendered: dict[str, list[Manifest]]) -> None:
    for found in rendered.values():
        labels = {name: pod["metadata"]["labels"].items() for name, pod in pods(found)}
        for one in found:
            if one["kind"] in {"Deployment", "StatefulSet"}:
                wanted = one["spec"]["selector"]["matchLabels"].items()
                assert [name for name, has in labels.items() if wanted <= has] == [one["metadata"]["name"]]
            if one["kind"] == "Service":
                wanted = one["spec"]["selector"].items()
                assert [name for name, has in labels.items() if wanted <= has] == [one["metadata"]["name"]]
    chart = yaml.safe_load((FOLDER / "prefect-values.yaml").read_text())["fullnameOverride"]
    policies = named(rendered["coordinator"], "NetworkPolicy")
    assert policies["prefect-server"]["spec"]["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/name": chart
    }


def test_every_reference_is_to_something_here_or_to_what_the_operator_is_told_to_bring(
    rendered: dict[str, list[Manifest]],
) -> None:
    for name, found in rendered.items():
        text = (FOLDER / name / "kustomization.yaml").read_text()
        brought = set(
            re.findall(r"^#\s+(?:Secret|ConfigMap|PersistentVolumeClaim) ([\w-]+)", text, flags=re.MULTILINE)
        )
        brought_keys = dict(re.findall(r"^#\s+Secret ([\w-]+)\s+(.+)$", text, flags=re.MULTILINE))
        here = {
            one["metadata"]["name"] for one in found if one["kind"] in {"ConfigMap", "PersistentVolumeClaim"}
        }
        used = set()
        for _, pod in pods(found):
            for volume in pod["spec"]["volumes"]:
                used |= {volume["secret"]["secretName"]} if "secret" in volume else set()
                used |= {volume["configMap"]["name"]} if "configMap" in volume else set()
                claim = volume.get("persistentVolumeClaim")
                used |= {claim["claimName"]} if claim else set()
            for container in containers(pod):
                mounted = {mount["name"] for mount in container["volumeMounts"]}
                known = {volume["name"] for volume in pod["spec"]["volumes"]}
                assert mounted <= known | {"home"}
                for variable in container["env"]:
                    for reference in variable.get("valueFrom", {}).values():
                        used.add(reference["name"])
                        if "secretKeyRef" in variable["valueFrom"]:
                            assert reference["key"] in brought_keys[reference["name"]]
                            continue
                        key = named(found, "ConfigMap")[reference["name"]]["data"]
                        assert reference["key"] in key
        values = yaml.safe_load((FOLDER / "prefect-values.yaml").read_text()) if name == "coordinator" else {}
        chart = set(
            re.findall(
                r"'(?:name|secretName|existingSecret)': '((?:fedllm|prefect-server)-[\w-]+)'", str(values)
            )
        )
        assert used - here <= brought, name
        # Nothing is asked for that nobody uses. The overlay of the docs makes the federation's map itself.
        assert brought - used - chart - {"fedllm-federation"} == set(), name
        assert {one for one in brought if not re.search(rf"\b{one}\b", DOCS)} - {
            "fedllm-federation"
        } == set(), name


def test_nothing_comes_in_at_a_site_and_out_goes_to_the_store_and_to_names(
    rendered: dict[str, list[Manifest]],
) -> None:
    policies = named(rendered["site"], "NetworkPolicy")
    assert set(policies) == {"closed", "names", "agent"}
    assert policies["closed"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert not any("ingress" in policy["spec"] for policy in policies.values())
    (out,) = policies["agent"]["spec"]["egress"]
    assert out["ports"] == [{"protocol": "TCP", "port": 9000}]
    assert {port["port"] for rule in policies["names"]["spec"]["egress"] for port in rule["ports"]} == {53}


def test_only_the_worker_reaches_prefect_and_mlflow(rendered: dict[str, list[Manifest]]) -> None:
    policies = named(rendered["coordinator"], "NetworkPolicy")
    worker = {"app.kubernetes.io/name": "fedllm", "app.kubernetes.io/component": "worker"}
    for name in ("mlflow", "prefect-server"):
        (rule,) = policies[name]["spec"]["ingress"]
        assert rule["from"] == [{"podSelector": {"matchLabels": worker}}]
    assert "ingress" not in policies["worker"]["spec"]
    assert "ingress" not in policies["provision"]["spec"]


def test_a_sites_ledger_stays_when_its_agent_goes(rendered: dict[str, list[Manifest]]) -> None:
    (agent,) = named(rendered["site"], "StatefulSet").values()
    assert agent["spec"]["replicas"] == 1
    assert set(agent["spec"]["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    (claim,) = agent["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]  # two pods would write one ledger
    assert agent["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= 60
    data = [m for m in containers(agent["spec"]["template"])[1]["volumeMounts"] if m["mountPath"] == "/data"]
    assert [mount["readOnly"] for mount in data] == [True]


def test_the_pods_run_what_compose_runs(
    rendered: dict[str, list[Manifest]], composed: dict[str, Any]
) -> None:
    """The two differ in where things are alone: what was shown for one then holds for the other."""
    ours = {
        container["name"]: container
        for _, pod in pods(rendered["coordinator"])
        for container in containers(pod)
    }
    for name in ("worker", "provision", "deployments", "mlflow", "door"):
        service = composed["services"][name]
        assert _places(ours[name]["args"]) == _places(service["command"]), name
        theirs = set(service["environment"]) - {"FEDLLM_CA_FILE"}
        here = {one["name"] for one in ours[name]["env"]} - {"RUNS", "FEDLLM_CA_FILE"}
        if name == "deployments":
            here = {one for one in here if not one.startswith("PREFECT_WORKER_")}
        assert here == theirs, name
    chart = yaml.safe_load((FOLDER / "prefect-values.yaml").read_text())["server"]
    assert [*chart["command"], *chart["args"]] == composed["services"]["prefect"]["command"]
    upgrade = [part.replace("$(RUNS)", "URL") for part in ours["upgrade"]["args"]]
    (page,) = re.findall(r"--no-deps mlflow (python -m mlflow db upgrade) ", DOCS)
    assert upgrade == [*page.split(), "URL"]


def _places(command: list[str]) -> list[str]:
    return [re.sub(r"^(--backend-store-uri)=.*", r"\1", part) for part in command]
