"""Command-line flags of `turbopilot serve`, generated from the options that `serve.settings` declares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import typer

from serve.adapters import AdapterOptions
from serve.device_options import DeviceOptions
from serve.log_options import LogOptions
from serve.model_choice import ModelChoice
from serve.options import Option, options_of
from serve.settings import (
    CacheOptions,
    Defaults,
    Limits,
    ModelOptions,
    PoolOptions,
    SecurityOptions,
    ServerOptions,
    TextOptions,
)
from serve.upstream_options import UpstreamOptions

Command = TypeVar("Command", bound=Callable[..., None])

# Sections of `--help` and their settings, in order.
PANELS: Final[dict[str, tuple[type, ...]]] = {
    "Models": (ModelChoice, AdapterOptions, PoolOptions),
    "Server": (ServerOptions,),
    "Model": (ModelOptions, CacheOptions),
    "Devices": (DeviceOptions,),
    "Upstreams": (UpstreamOptions,),
    "Requests": (Defaults, TextOptions, Limits),
    "Security": (SecurityOptions,),
    "Log": (LogOptions,),
}


def all_options() -> Iterator[tuple[str, Option]]:
    """Yield every option with the title of its section in `--help`."""
    for panel, groups in PANELS.items():
        for group in groups:
            yield from ((panel, option) for option in options_of(group))


def with_options(command: Command) -> Command:
    """Replace a command's `**given` parameter by one parameter for each option."""
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
        variables = [name, *more] if more else name  # errors print a list with its brackets

        info = typer.Option(default, *option.flags.split(", "), envvar=variables, **shared)
    annotation = kind if default is not None else kind | None
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation
    )
