"""A verb's parameters, declared once as the fields of a dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
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
        help="Layers to compute on the GPU: a number, or auto (all if there is a GPU).",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def takes(arguments: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Give a function of one dataclass a signature of its fields, which Typer reads."""
    hints = get_type_hints(arguments, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(arguments)  # type: ignore[arg-type]  # mypy does not know that it is a dataclass
    ]

    def decorate(verb: Callable[[T], None]) -> Callable[..., None]:
        @wraps(verb)
        def command(**given: Any) -> None:
            verb(arguments(**given))

        command.__annotations__ = hints
        vars(command)["__signature__"] = inspect.Signature(parameters)
        return command

    return decorate
