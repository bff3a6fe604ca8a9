"""Typer's errors about a command line, in the words of the program's other errors."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.base.quoting import shortened

_MOST_CHARACTERS = 60  # of a value that is repeated in an error


def no_such_command(name: str, commands: Iterable[str]) -> InvalidInput:
    """Return the error for an unknown verb."""
    hint = _with_closest(name, commands, "see turbopilot --help")
    return InvalidInput(f"{shortened(name, _MOST_CHARACTERS)}: no such command", hint=hint)


def unexpected_arguments(context: Any, extra: Iterable[str]) -> InvalidInput:
    """Return the error for arguments beyond those that a verb takes."""
    shown = [shortened(text, _MOST_CHARACTERS) for text in extra]
    what = "argument" if len(shown) == 1 else "arguments"
    return InvalidInput(f"unexpected {what}: {', '.join(shown)}", hint=_see_help(context))


def invalid_usage(error: Any) -> InvalidInput:
    """Return Typer's UsageError as the program's error, with the closest option as the hint.

    The class is recognized by its name: some versions of Typer have their own copy of Click.
    """
    hint = _see_help(error.ctx)
    match type(error).__name__:
        case "NoSuchOption":
            message = f"{error.option_name}: no such option"
            options = [o for p in error.ctx.command.get_params(error.ctx) for o in _spellings(p)]
            hint = _with_closest(error.option_name, options, hint)
        case "MissingParameter":
            message = f"{_called(error)} is missing"
        case "BadParameter":
            message = _bad_value(error)
        case "BadOptionUsage":
            what = error.message.removeprefix(f"Option {error.option_name!r} ")
            message = f"{error.option_name}: {_plain(what)}"
        case _:
            message = _plain(error.message)
    return InvalidInput(message, hint=hint)


def _see_help(context: Any) -> str:
    return f"see {context.command_path if context else 'turbopilot'} --help"


def _with_closest(name: str, known: Iterable[str], hint: str) -> str:
    near = did_you_mean(name, known, hint, most=1)
    return near if near == hint else f"{near} {hint}"


def _spellings(parameter: Any) -> list[str]:
    return [o for o in (*parameter.opts, *parameter.secondary_opts) if o.startswith("-")]


def _called(error: Any) -> str:
    """Return the name of the parameter: the environment variable, if its value is from there, or the long option."""
    parameter, context = error.param, error.ctx
    if parameter is None:
        return str(error.param_hint or "a value")
    source = context.get_parameter_source(parameter.name) if context else None
    if getattr(source, "name", "") == "ENVIRONMENT":
        variables = parameter.envvar
        names = [variables] if isinstance(variables, str) else variables
        return str(next((n for n in names if os.environ.get(n)), names[0]))
    return max(_spellings(parameter), key=len, default=parameter.metavar or parameter.name.upper())


def _bad_value(error: Any) -> str:
    details = getattr(error.__cause__, "errors", None)  # pydantic's ValidationError has the value
    value = f" {shortened(str(details()[0]['input']), _MOST_CHARACTERS)}" if details else ""
    what, _, _ = error.message.replace("Input should be", "must be", 1).partition(", unable to")
    return f"{_called(error)}{value}: {_plain(what)}"


def _plain(message: str) -> str:
    """Return a message that begins in lower case and has no final full stop."""
    return message[:1].lower() + message[1:].rstrip(".")
