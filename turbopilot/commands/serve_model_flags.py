"""More options of `turbopilot serve`: models beside the first, how they share a machine, where options stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from turbopilot.commands.serve_config import read_into

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME=FILE",
        help="One more model, for requests that name it; FILE as MODEL. As often as you like; loaded when it is first "
        "asked for. Without MODEL the first of these answers whoever names none of them. In the environment: separated "
        "by spaces.",
        show_default=False,
    ),
]

ModelMemory = Annotated[
    str,
    typer.Option(
        "--model-memory",
        metavar="SIZE",
        help="Memory for all loaded models together, as 12GB: what was not used for longest makes room for what is "
        "asked for. auto: three quarters of this machine's.",
    ),
]

IdleUnload = Annotated[
    float | None,
    typer.Option(
        "--idle-unload",
        metavar="MINUTES",
        min=0.0,
        help="Unload a model after so long without a request; the next one loads it again. 0 is never. Default: 30, "
        "and never for the model that answers whoever names none.",
        show_default=False,
    ),
]

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,  # before the options that it is about
        callback=read_into,
        help='A TOML file of these options, as parallel = 4, and a table [models] of NAME = "FILE". The command line '
        "goes before TURBOPILOT_* variables, these before the original's, and these before the file.",
        show_default=False,
    ),
]
