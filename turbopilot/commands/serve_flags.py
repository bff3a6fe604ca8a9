"""Command-line flags of `turbopilot serve`, generated from the options that `serve.settings` declares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from serve.adapters import AdapterOptions
from serve.device_options import DeviceOptions, MainMemoryOptions
from serve.log_options import LogOptions
from serve.model_choice import ModelChoice
from serve.options import Option, options_of
from serve.pool_options import PoolOptions
from serve.settings import (
    CacheOptions,
    Defaults,
    Limits,
    ModelOptions,
    SecurityOptions,
    ServerOptions,
    TextOptions,
)
from serve.upstream_options import UpstreamOptions
from turbopilot.commands.option_parameter import option_parameter

Command = TypeVar("Command", bound=Callable[..., None])

# Sections of `--help` and their settings, in order.
PANELS: Final[dict[str, tuple[type, ...]]] = {
    "Models": (ModelChoice, AdapterOptions, PoolOptions),
    "Server": (ServerOptions,),
    "Model": (ModelOptions, CacheOptions),
    "Devices": (DeviceOptions, MainMemoryOptions),
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
    made = [option_parameter(panel, option) for panel, option in all_options()]
    vars(command)["__signature__"] = signature.replace(parameters=[*own, *made])
    return command
