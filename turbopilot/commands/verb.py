"""Parameters of a command, declared as the fields of a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from serve.device_options import DeviceOptions
from serve.options import Option, options_of, read_settings
from turbopilot.commands.option_parameter import option_parameter

T = TypeVar("T")

Threads = Annotated[
    int, typer.Option("-t", "--threads", min=0, help="Number of threads; 0 uses all cores.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


@dataclass(frozen=True, slots=True)
class OptionGroup:
    """Annotation of an argument whose class declares options (see `serve.options`), each of which is a flag.

    The argument's default, an instance of the class, has the defaults of the flags.

    Attributes:
        panel: title of its section in `--help`.
        leaves_out: fields without a flag.
    """

    panel: str
    leaves_out: tuple[str, ...] = ()

    def options(self, group: type) -> list[Option]:
        """Return the options that are flags."""
        return [o for o in options_of(group) if o.field not in self.leaves_out]

    def parameters(self, group: type, defaults: Any) -> list[inspect.Parameter]:
        """Return the parameters that Typer reads. Environment variables are for the server alone."""
        found = []
        for option in self.options(group):
            value = getattr(defaults, option.field)
            given = None if value == option.default else str(value)
            found.append(option_parameter(self.panel, option, given, reads_environment=False))
        return found


Devices = Annotated[DeviceOptions, OptionGroup("Devices")]


def takes(arguments: Callable[..., T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Give a function whose only parameter is a dataclass the signature of its fields, which Typer reads."""
    hints = get_type_hints(arguments, include_extras=True)
    groups = {
        name: (hint.__origin__, group)
        for name, hint in hints.items()
        for group in getattr(hint, "__metadata__", ())
        if isinstance(group, OptionGroup)
    }
    parameters: list[inspect.Parameter] = []
    for p in inspect.signature(arguments).parameters.values():
        if p.name in groups:
            kind, group = groups[p.name]
            parameters += group.parameters(kind, p.default)
        else:
            parameters.append(p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY))

    def decorate(verb: Callable[[T], None]) -> Callable[..., None]:
        @wraps(verb)
        def command(**given: Any) -> None:
            for name, (kind, group) in groups.items():
                chosen = {o.name: given.pop(o.name) for o in group.options(kind)}
                given[name] = read_settings(kind, chosen)
            verb(arguments(**given))

        command.__annotations__ = {p.name: p.annotation for p in parameters}
        vars(command)["__signature__"] = inspect.Signature(parameters)
        return command

    return decorate
