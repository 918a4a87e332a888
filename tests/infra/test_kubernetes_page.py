"""What docs/deploy.md says to kubectl and helm, against infra/kubernetes as its overlays render it."""

import re
from pathlib import Path

import yaml
from manifests import Manifest, containers, named, pods

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kubernetes"
DOCS = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_no_place_of_the_base_is_left_once_the_overlay_has_said_where_things_are(
    rendered: dict[str, list[Manifest]],
) -> None:
    base = (FOLDER / "coordinator" / "kustomization.yaml").read_text()
    places = set(re.findall(r"[\w-]+\.example\b", base))
    assert places == {"minio.example", "postgres.example"}
    maps = str(list(named(rendered["coordinator"], "ConfigMap").values()))
    federation = yaml.safe_load((ROOT / "infra" / "compose" / "federation.example.yaml").read_text())
    told = maps.replace(federation["store"]["door"], "")  # the page changes it by a command of its own
    assert [place for place in places if place in told] == []
    assert {"store.example", "database.example"} <= set(re.findall(r"[\w-]+\.example\b", told))


def test_the_federations_map_holds_what_the_federation_names_and_its_change_starts_the_worker_anew(
    rendered: dict[str, list[Manifest]],
) -> None:
    federation = yaml.safe_load((ROOT / "infra" / "compose" / "federation.example.yaml").read_text())
    public = Path(federation["evaluation"]["public"])
    for name, pod in pods(rendered["coordinator"]):
        mounts = {m["name"]: m["mountPath"] for one in containers(pod) for m in one["volumeMounts"]}
        if mounts.get("federation") is None:
            continue
        assert mounts["federation"] == str(public.parent), name
        (volume,) = [one for one in pod["spec"]["volumes"] if one["name"] == "federation"]
        found = volume["configMap"]["name"]
        assert re.fullmatch(r"fedllm-federation-[a-z0-9]{10}", found), name  # its content is in its name
        data = named(rendered["coordinator"], "ConfigMap")[found]["data"]
        assert {"federation.yaml", public.name} <= data.keys(), name


def test_who_registers_sites_sleeps_until_it_is_woken_and_has_one_key_of_each_secret(
    rendered: dict[str, list[Manifest]],
) -> None:
    jobs = named(rendered["coordinator"], "Job")
    assert {name: job["spec"].get("suspend", False) for name, job in jobs.items()} == {
        "provision": False,
        "registrar": True,
        "upgrade": True,
    }
    pod = jobs["registrar"]["spec"]["template"]
    keys = [
        item["key"]
        for volume in pod["spec"]["volumes"]
        if "secret" in volume
        for item in volume["secret"]["items"]
    ]
    assert sorted(keys) == ["postgres-journal", "store-registrar"]
    claims = [volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["spec"]["volumes"]]
    assert "coordinator" in claims
    policies = named(rendered["coordinator"], "NetworkPolicy")
    selected = policies["registrar"]["spec"]["podSelector"]["matchLabels"].items()
    assert selected <= pod["metadata"]["labels"].items()
    (rule,) = policies["registrar"]["spec"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [5432, 9000]


def test_prefects_chart_is_of_a_release_whose_values_these_are() -> None:
    values = yaml.safe_load((FOLDER / "prefect-values.yaml").read_text())
    installs = re.findall(r"helm install prefect-server \S+ --version (\S+)", DOCS)
    assert installs == ["2026.6.18212926"]
    # That release's values below `server`; its schema takes no other.
    assert values["server"].keys() <= {
        *(
            "affinity",
            "apiBasePath",
            "args",
            "autoscaling",
            "basicAuth",
            "command",
            "containerSecurityContext",
        ),
        *("debug", "env", "extraArgs", "extraContainers", "extraEnvVarsCM", "extraEnvVarsSecret"),
        *(
            "extraVolumeMounts",
            "extraVolumes",
            "livenessProbe",
            "loggingLevel",
            "nodeSelector",
            "podAnnotations",
        ),
        *(
            "podLabels",
            "podSecurityContext",
            "priorityClassName",
            "readinessProbe",
            "replicaCount",
            "resources",
        ),
        *("revisionHistoryLimit", "tolerations", "uiConfig", "updateStrategy"),
    }
    assert values["server"]["updateStrategy"] == {"type": "Recreate"}  # two would migrate one database
    own = {one["name"]: one.get("value") for one in values["server"]["env"]}["PREFECT_API_URL"]
    assert own == "https://localhost:4200/api"  # no policy lets it out to its own Service


def test_what_the_page_tells_kubectl_is_about_what_is_there(rendered: dict[str, list[Manifest]]) -> None:
    there = {(one["kind"].lower(), one["metadata"]["name"]) for one in rendered["coordinator"]}
    there |= {("deployment", "prefect-server")}  # the chart's
    told = set(re.findall(r"\b(deployment|job)/([\w-]+)", DOCS))
    assert told <= there
    assert {name for kind, name in there if kind == "job"} == {name for kind, name in told if kind == "job"}
    (deleted,) = re.findall(r"delete job ([\w -]+) --ignore-not-found", DOCS)
    assert set(deleted.split()) == {name for kind, name in there if kind == "job"}  # none can be changed
    asked = DOCS.partition("What it expects and git does not have")[2].partition("```\n\n")[0]
    keys = {
        name: set(re.findall(r"--from-(?:file|literal)=([\w-]+)", line))
        for name, line in re.findall(r"create secret generic (\S+) (.+)", asked)
    }
    text = (FOLDER / "coordinator" / "kustomization.yaml").read_text()
    for name, has in keys.items():
        ((line,),) = [re.findall(rf"^#\s+Secret {name}\s+(.+)$", text, flags=re.MULTILINE)]
        assert {key for key in has if key not in line} == set(), name
