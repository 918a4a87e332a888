"""infra/kubernetes as kubectl renders it with the overlays of docs/deploy.md, and what is in it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SIDES = ("coordinator", "site")
DIGEST = "sha256:" + "0" * 64  # stands for the one that the operator's registry prints

Manifest = dict[str, Any]


def render(kubectl: str, side: str, folder: Path) -> list[Manifest]:
    """What `kubectl apply --kustomize` would send."""
    docs = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    (text,) = re.findall(rf"cat > {side}/kustomization\.yaml <<'EOF'\n(.*?)\nEOF\n", docs, flags=re.DOTALL)
    # kustomize takes no absolute path for a folder: the tree is linked beside.
    (folder / "infra").symlink_to(ROOT / "infra")
    for name in ("federation.yaml", "public.jsonl"):
        shutil.copy(ROOT / "infra" / "compose" / "federation.example.yaml", folder / name)
    overlay = text.replace("../infra/", "infra/").replace("sha256:DIGEST", DIGEST)
    (folder / "kustomization.yaml").write_text(overlay)
    done = subprocess.run(
        [kubectl, "kustomize", "--load-restrictor=LoadRestrictionsNone", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def named(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """The pod templates, with the name of what makes pods of them."""
    for one in manifests:
        if one["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield one["metadata"]["name"], one["spec"]["template"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
