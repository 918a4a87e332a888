"""What an installation of a package brings, by what the installed packages say that they need."""

from functools import cache
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@cache
def needed_by(package: str, extra: str = "") -> frozenset[str]:
    """Canonical names of the distributions that `pip install package[extra]` brings here, its own too."""
    todo, seen = [(package, extra), (package, "")], set[tuple[str, str]]()
    while todo:
        name, wanted = todo.pop()
        name = canonicalize_name(name)
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            texts = metadata.requires(name) or ()
        except metadata.PackageNotFoundError:  # of another platform, or an extra that nobody installed here
            continue
        for one in map(Requirement, texts):
            if one.marker is None or one.marker.evaluate({"extra": wanted}):
                todo += [(one.name, inner) for inner in ("", *one.extras)]
    return frozenset(name for name, _ in seen)


@cache
def _modules() -> dict[str, frozenset[str]]:
    return {
        module: frozenset(map(canonicalize_name, owners))
        for module, owners in metadata.packages_distributions().items()
    }


def modules_of(distributions: frozenset[str]) -> set[str]:
    """The top-level modules that these distributions bring."""
    return {module for module, owners in _modules().items() if owners & distributions}


def modules_beside(distributions: frozenset[str]) -> set[str]:
    """The top-level modules that are installed here, and that none of these distributions brings."""
    return {module for module, owners in _modules().items() if not owners & distributions}
