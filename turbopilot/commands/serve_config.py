"""Options of `turbopilot serve` from a TOML file (`--config`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import typer

from serve.adapters import split_scale
from serve.options import Option
from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.commands.serve_flags import all_options

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_CALLED: Final = {
    str: "a string", bool: "true or false", int: "a whole number", float: "a number", list: "a list of strings",
}  # fmt: skip


def read_into(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make the file's values the defaults of the command's options; a callback for Typer.

    Raises:
        InvalidInput: the file cannot be read, or a key or value is invalid; the message names file and key.
    """
    if path is not None and not ctx.resilient_parsing:
        ctx.default_map = read_config(path)
    return path


def read_config(path: Path) -> dict[str, Any]:
    """Return the file's values, by the names of the command's parameters.

    Raises:
        InvalidInput: see `read_into`.
    """
    options = {k: o for _, o in all_options() for k in o.keys if o.name != "models"}
    found: dict[str, Any] = {}
    for key, value in _parsed(path).items():
        if key == "models":
            found[key] = _models(path, value)
            continue
        if key not in options:
            hint = "turbopilot serve --help lists the options; leave out the leading --"
            raise InvalidInput(
                f"{path}: {key}: unknown option",
                hint=did_you_mean(
                    key,
                    [*options, "[models]"],
                    hint,
                    stands_for={k: o.name for k, o in options.items()},
                ),
            )
        if options[key].name in found:
            raise InvalidInput(f"{path}: {key}: the option is set twice", hint="remove one of them")
        found[options[key].name] = _written(path, key, value, options[key])
    return found


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"--config {path}: no such file", hint="check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InvalidInput(
            f"{path}: invalid TOML: {e}",
            hint='write for example: parallel = 4, or: host = "0.0.0.0"',
        ) from None
    return found


def _written(path: Path, key: str, value: Any, option: Option) -> Any:
    """Return a value in the form that the command line gives it."""
    kinds = (str, int) if option.auto else (str, list) if option.kind is list else (option.kind,)
    if option.kind is Path:
        kinds = (str,)
    if not _fits(value, kinds):
        called = " or ".join(_CALLED[k] for k in kinds)
        shown = "something else" if option.is_secret else _shown(value)
        raise InvalidInput(
            f"{path}: {key} must be {called}, not {shown}",
            hint=f"turbopilot serve --help describes --{key}",
        )
    if option.kind is list:
        values = [value] if isinstance(value, str) else value
        return [_adapter_beside(path, v) for v in values] if option.is_model else values
    if option.is_model:
        return _beside(path, value)
    if option.kind is Path:
        return str(path.parent / Path(value).expanduser())
    option.value(value, f"{path}: {key} =")
    return str(value) if option.auto else value


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, list):
        return list in kinds and all(isinstance(v, str) for v in value)
    return type(value) in kinds or (type(value) is int and float in kinds)


def _models(path: Path, table: Any) -> list[str]:
    """Return the table [models] as a list of NAME=FILE."""
    if not isinstance(table, dict):
        raise InvalidInput(
            f"{path}: models must be a table, not {_shown(table)}",
            hint='write [models] and, below it, lines such as: small = "small.gguf"',
        )
    for name, file in table.items():
        if not isinstance(file, str):
            raise InvalidInput(
                f"{path}: models.{name} must be a string, not {_shown(file)}",
                hint='put names that contain a dot in quotes: "qwen-1.5b" = "qwen.gguf"',
            )
    return [f"{name}={_beside(path, file)}" for name, file in table.items()]


def _beside(path: Path, model: str) -> str:
    """Return the model's path relative to the configuration file, if that exists; otherwise the model unchanged."""
    try:
        beside = path.parent / model
        return str(beside) if beside.exists() else model
    except OSError:  # the name is too long
        return model


def _adapter_beside(path: Path, text: str) -> str:
    """Return an adapter, FILE or FILE:SCALE, like `_beside`."""
    file, colon, scale = split_scale(text)
    return f"{_beside(path, file)}{colon}{scale}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
