"""Sites' records that lie under fedllm's home: they stay there, and out of every archive."""

from pathlib import Path

import yaml

from fedllm.backup.inventory import is_passed_over, site_homes
from fedllm.config.yaml_text import read_yaml


def record_files(home: Path) -> dict[str, str]:
    """Files below the home that sites train on, and the folder of a site that names each.

    Whoever withdrew from them would live on in an archive. Those that no archive holds anyway are left out.
    """
    found = {}
    for site in site_homes(home):
        path = _records_of(site)
        if path is None or not path.is_relative_to(home) or not path.is_file():
            continue
        name = path.relative_to(home).as_posix()
        if not is_passed_over(name, keys=True):
            found[name] = site.relative_to(home).as_posix()
    return found


def _records_of(site: Path) -> Path | None:
    """What `data` names, also in a site file that is wrong elsewhere."""
    try:
        told = read_yaml((site / "site.yaml").read_text(encoding="utf-8"))
        data = told.get("data") if isinstance(told, dict) else None
        return (site / data).resolve() if isinstance(data, str) else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
