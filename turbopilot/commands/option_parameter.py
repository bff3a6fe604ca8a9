"""Parameters of a command that are derived from declared options (see `serve.options`)."""

from __future__ import annotations

import inspect
from typing import Any

import typer

from serve.options import Option


def option_parameter(
    panel: str, option: Option, given: Any = None, *, reads_environment: bool = True
) -> inspect.Parameter:
    """Return the parameter that Typer reads.

    Args:
        panel: title of its section in `--help`.
        option: the option.
        given: default on the command line instead of the option's own; None for that.
        reads_environment: whether the option has its environment variables.
    """
    kind: Any = str if option.auto else list[str] if option.kind is list else option.kind
    default = "auto" if option.auto else option.default
    if kind is bool:
        default = False
    elif kind == list[str]:
        default = None
    default = default if given is None else given
    shared: dict[str, Any] = {
        "metavar": option.metavar, "help": option.help, "show_default": default is not None, "rich_help_panel": panel,
    }  # fmt: skip
    info: Any
    if option.is_argument:
        info = typer.Argument(default, **shared)
    else:
        if kind in (int, float):
            shared |= {"min": option.least, "max": option.most}
        name, *more = option.variables if reads_environment else [None]
        variables = [name, *more] if more else name  # errors print a list with its brackets

        info = typer.Option(default, *option.flags.split(", "), envvar=variables, **shared)
    annotation = kind if default is not None else kind | None
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation
    )
