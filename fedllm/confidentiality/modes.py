"""Every mode of confidentiality by name, and the table of them."""

from fedllm.confidentiality.mode import Mode
from fedllm.confidentiality.plain import PLAIN
from fedllm.config import FederationConfig
from fedllm.errors import ConfigError

MODES: dict[str, Mode] = {PLAIN.name: PLAIN}


def check_mode(config: FederationConfig) -> None:
    """Raise `ConfigError` if a federation's mode conflicts with its other settings."""
    mode = MODES[config.confidentiality]
    if (why := mode.conflict(config)) is not None:
        raise ConfigError(f"confidentiality {mode.name}: {why}")


def mode_table() -> str:
    """Return all modes as a Markdown table, as in docs/threat-model.md."""
    head = "| mode | who can see a single update | phases | a site writes in a round | not observable |"
    rows = [
        "| "
        + " | ".join(
            [
                f"`{mode.name}`",
                mode.who_sees,
                ", ".join(f"`{phase.name}`" for phase in mode.phases),
                ", ".join(f"`{one.name}`" for one in mode.objects),
                ", ".join(mode.unobservable) or "-",
            ]
        )
        + " |"
        for mode in MODES.values()
    ]
    return "\n".join([head, "|---|---|---|---|---|", *rows])
