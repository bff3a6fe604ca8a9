"""The command-line flags of `turbopilot serve`, made from the options that its settings declare."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import typer

from serve.options import Option, options_of
from serve.settings import (
    CacheOptions,
    Defaults,
    Limits,
    LogOptions,
    ModelChoice,
    ModelOptions,
    PoolOptions,
    SecurityOptions,
    ServerOptions,
)

Command = TypeVar("Command", bound=Callable[..., None])

# In the order of `--help`, by the titles of its sections.
PANELS: Final[dict[str, tuple[type, ...]]] = {
    "Models": (ModelChoice, PoolOptions),
    "Server": (ServerOptions,),
    "Model": (ModelOptions, CacheOptions),
    "Requests": (Defaults, Limits),
    "Security": (SecurityOptions,),
    "Log": (LogOptions,),
}


def all_options() -> Iterator[tuple[str, Option]]:
    """Yield every option, with the title of its section of `--help`."""
    for panel, groups in PANELS.items():
        for group in groups:
            yield from ((panel, option) for option in options_of(group))


def with_options(command: Command) -> Command:
    """Give a command a parameter for each option, in place of its keyword arguments."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    made = [_parameter(panel, option) for panel, option in all_options()]
    vars(command)["__signature__"] = signature.replace(parameters=[*own, *made])
    return command


def _parameter(panel: str, option: Option) -> inspect.Parameter:
    kind: Any = str if option.auto else list[str] if option.kind is list else option.kind
    default = "auto" if option.auto else option.default
    if kind is bool:
        default = False
    elif kind == list[str]:
        default = None
    shared: dict[str, Any] = {
        "metavar": option.metavar, "help": option.help, "show_default": default is not None, "rich_help_panel": panel,
    }  # fmt: skip
    info: Any
    if option.is_argument:
        info = typer.Argument(default, **shared)
    else:
        if kind in (int, float):
            shared |= {"min": option.least, "max": option.most}
        name, *more = option.variables
        variables = [name, *more] if more else name  # errors show a list as Python writes it
        info = typer.Option(default, *option.flags.split(", "), envvar=variables, **shared)
    annotation = kind if default is not None else kind | None
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation
    )
