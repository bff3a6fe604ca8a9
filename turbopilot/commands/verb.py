"""A verb's parameters, declared once as the fields of a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

T = TypeVar("T")

Threads = Annotated[int, typer.Option("-t", "--threads", min=0, help="0: all cores.")]
NGpuLayers = Annotated[
    str,
    typer.Option(
        "--ngl",
        "--n-gpu-layers",
        help="Layers to compute on the GPU: a number, or auto: all where there is a GPU.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def takes(arguments: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Give a function of one dataclass the fields of it as its parameters, for Typer to read."""

    def decorate(verb: Callable[[T], None]) -> Callable[..., None]:
        @wraps(verb)
        def command(**given: Any) -> None:
            verb(arguments(**given))

        hints = get_type_hints(arguments, include_extras=True)
        command.__annotations__ = hints
        vars(command)["__signature__"] = inspect.Signature(
            [
                inspect.Parameter(
                    f.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=f.default,
                    annotation=hints[f.name],
                )
                for f in fields(arguments)  # type: ignore[arg-type]  # mypy does not know that it is a dataclass
            ]
        )
        return command

    return decorate
