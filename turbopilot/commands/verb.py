"""Parameters of a command, declared as the fields of a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

T = TypeVar("T")

Threads = Annotated[
    int, typer.Option("-t", "--threads", min=0, help="Number of threads; 0 uses all cores.")
]
NGpuLayers = Annotated[
    str,
    typer.Option(
        "--ngl",
        "--n-gpu-layers",
        help="Layers to put on GPUs: a number, all, or auto for as many as fit.",
    ),
]
Rpc = Annotated[
    list[str] | None,
    typer.Option(
        "--rpc",
        metavar="HOST:PORT",
        help="Workers whose devices are used too (see turbopilot worker). Can be repeated.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def takes(arguments: Callable[..., T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Give a function whose only parameter is a dataclass the signature of its fields, which Typer reads."""
    hints = get_type_hints(arguments, include_extras=True)
    parameters = [
        p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY)
        for p in inspect.signature(arguments).parameters.values()
    ]

    def decorate(verb: Callable[[T], None]) -> Callable[..., None]:
        @wraps(verb)
        def command(**given: Any) -> None:
            verb(arguments(**given))

        command.__annotations__ = hints
        vars(command)["__signature__"] = inspect.Signature(parameters)
        return command

    return decorate
