"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from flows.inputs import HOME_VARIABLE

HomeOption = Annotated[
    str,
    typer.Option("--home", envvar=HOME_VARIABLE, show_envvar=True, metavar="DIR", help="Folder of all artifacts and results."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
SetOption = Annotated[
    list[str],
    typer.Option("--set", metavar="FIELD=VALUE", help="A setting; of another section as section.field=value. May be repeated."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.yaml", help="Settings by section, as for srpo run; the other sections are ignored."),
]
