"""Find sites' records below fedllm's home: no archive includes them."""

from pathlib import Path

import yaml

from fedllm.backup.inventory import is_excluded, site_homes
from fedllm.config.yaml_text import read_yaml


def record_files(home: Path) -> dict[str, str]:
    """Return the data files below the home, each with the folder of a site that names it.

    An archive would keep the records of people who withdraw later. Files that every backup excludes are
    left out.
    """
    records = {}
    for site in site_homes(home):
        path = _records_of(site)
        if path is None or not path.is_relative_to(home) or not path.is_file():
            continue
        name = path.relative_to(home).as_posix()
        if not is_excluded(name, keys=True):
            records[name] = site.relative_to(home).as_posix()
    return records


def _records_of(site: Path) -> Path | None:
    """Return the path that `data` names, also in a site file with faults elsewhere."""
    try:
        raw = read_yaml((site / "site.yaml").read_text(encoding="utf-8"))
        data = raw.get("data") if isinstance(raw, dict) else None
        return (site / data).resolve() if isinstance(data, str) else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
