"""Options shared by several verbs, with one spelling and one help text."""

from pathlib import Path
from typing import Annotated

import typer

FEDERATION = Path("params.yaml")  # the default federation file

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout's last line.")]
Config = Annotated[Path, typer.Option("--config", help="The federation file.")]
Home = Annotated[Path | None, typer.Option(help="The site's folder. Default: the only one there is.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: --set rounds.max=5; may be repeated.")
]
