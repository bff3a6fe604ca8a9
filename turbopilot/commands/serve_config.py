"""`turbopilot serve --config`: options from a TOML file. Knows which options there are only from the command itself."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import typer

from turbopilot.base.errors import InvalidInput, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Options that are a word or a number.
_WORD_OR_NUMBER: Final = {"n_gpu_layers", "parallel", "prefix_cache", "model_memory"}
# Options that name a model: a file beside the configuration goes before one of that name elsewhere.
_MODELS: Final = {"model", "model_file", "draft"}
# What no message shows.
_SECRET: Final = {"api_key"}
# Said on the command line alone.
_NOT_HERE: Final = {"config", "help"}
_TABLE: Final = "models"
_CALLED: Final = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Path: "a text",
    list: "a list of texts",
}


@dataclass(frozen=True, slots=True)
class _Key:
    """What a key stands for: a parameter of the command, and what its value may be."""

    param: Any
    kinds: tuple[type, ...]


def read_into(ctx: typer.Context, path: Path | None) -> Path | None:
    """Typer's callback: make a file's values the defaults of the command's options.

    Raises:
        InvalidInput: the file cannot be read, or a key or value is of no use; names file and key.
    """
    if path is not None and not ctx.resilient_parsing:
        ctx.default_map = _defaults(ctx, path)
    return path


def _defaults(ctx: typer.Context, path: Path) -> dict[str, Any]:
    """By the names of the command's parameters."""
    keys = _keys(ctx)
    found: dict[str, Any] = {}
    for key, value in _read(path).items():
        if key == _TABLE:
            found["models"] = _models(path, value)
            continue
        if key not in keys:
            known = [*keys, f"[{_TABLE}]"]
            raise InvalidInput(
                f"{path}: {key}: there is no such option",
                hint=did_you_mean(key, known, "turbopilot serve --help lists them, without the --"),
            )
        name = keys[key].param.name
        if name in found:
            raise InvalidInput(f"{path}: {key}: this option is given twice", hint="leave one out")
        found[name] = _checked(ctx, path, key, value, keys[key])
    return found


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"--config {path}: no such file", hint="check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InvalidInput(
            f"{path}: is no TOML: {e}", hint='write: parallel = 4, or: host = "0.0.0.0"'
        ) from None
    return found


def _keys(ctx: typer.Context) -> dict[str, _Key]:
    """All that may stand in a file: the long names of options, and `model` for the argument."""
    hints = get_type_hints(inspect.unwrap(ctx.command.callback or read_into))
    keys: dict[str, _Key] = {}
    for param in ctx.command.params:
        name = param.name or ""
        if name in _NOT_HERE or name == "models" or name not in hints:
            continue
        kinds = _kinds(hints[name]) + ((int,) if name in _WORD_OR_NUMBER else ())
        long = [o[2:] for o in param.opts if o.startswith("--")] or [name]
        keys |= {key: _Key(param, kinds) for key in long}
    return keys


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types of `int`, `int | None` and `list[str] | None`."""
    kinds = get_args(hint) if type(None) in get_args(hint) else (hint,)
    if list[str] in kinds:  # an option that may be given again
        return (str, list)
    return tuple(k for k in kinds if k is not type(None))


def _checked(ctx: typer.Context, path: Path, key: str, value: Any, wanted: _Key) -> Any:
    """A value as the option takes it."""
    name = wanted.param.name
    shown = "something else" if name in _SECRET else _shown(value)
    if not _fits(value, wanted.kinds):
        called = " or ".join(_CALLED[k] for k in wanted.kinds)
        raise InvalidInput(
            f"{path}: {key} must be {called}, and is {shown}",
            hint=f"turbopilot serve --help says more of --{key}",
        )
    if name in _MODELS:
        return _beside(path, value)
    if Path in wanted.kinds:
        return str(path.parent / Path(value).expanduser())
    if list in wanted.kinds:
        return [value] if isinstance(value, str) else value
    try:
        wanted.param.process_value(ctx, value)  # its bounds
    except typer.BadParameter as e:
        raise InvalidInput(
            f"{path}: {key} = {_shown(value)}: {e.message}",
            hint=f"turbopilot serve --help says more of --{key}",
        ) from None
    return str(value) if wanted.kinds[0] is str else value


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int):
        return int in kinds or float in kinds
    if isinstance(value, float):
        return float in kinds
    if isinstance(value, list):
        return list in kinds and all(isinstance(v, str) for v in value)
    return isinstance(value, str) and (str in kinds or Path in kinds)


def _models(path: Path, table: Any) -> list[str]:
    """The table [models] as the command line has it."""
    if not isinstance(table, dict):
        raise InvalidInput(
            f"{path}: {_TABLE} must be a table, and is {_shown(table)}",
            hint='write [models], and below it lines as: small = "small.gguf"',
        )
    for name, file in table.items():
        if not isinstance(file, str):
            raise InvalidInput(
                f"{path}: {_TABLE}.{name} must be a text, and is {_shown(file)}",
                hint='a name with a dot in it stands in quotes: "qwen-1.5b" = "qwen.gguf"',
            )
    return [f"{name}={_beside(path, file)}" for name, file in table.items()]


def _beside(path: Path, model: str) -> str:
    """A model as it is written; where there is a file of that name beside the configuration, that."""
    try:
        beside = path.parent / model
        return str(beside) if beside.exists() else model
    except OSError:  # far too long
        return model


def _shown(value: Any) -> str:
    """A value in a message, not too long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
