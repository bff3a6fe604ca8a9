"""Names → files: what a person may type where a checkpoint or a model is wanted."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from turbopilot.errors import InvalidInput
from turbopilot.hub import REPO_ID
from turbopilot.version import __version__

DEMO = "demo"
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[KMGT]?)(?P<binary>i?)B?", re.IGNORECASE)


def demo_checkpoint() -> Path:
    """The folder of the bundled checkpoint."""
    return Path(str(resources.files("turbopilot.demo_model")))


def cache_folder() -> Path:
    """Where files that can be made again are kept: $TURBOPILOT_CACHE, or the user's cache folder."""
    if explicit := os.environ.get("TURBOPILOT_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or (
        os.environ.get("LOCALAPPDATA") if os.name == "nt" else None
    )
    return Path(base or Path.home() / ".cache") / "turbopilot"


def _path(name: str, hint: str) -> Path:
    """What a person typed as a path, `~` included.

    Raises:
        InvalidInput: the system knows no such user, or no name so long.
    """
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError) as e:
        raise InvalidInput(f"{name}: is no path: {e}", hint=hint) from e
    return path


def resolve_checkpoint(name: str) -> Path:
    """A checkpoint's folder: a path, or "demo" for the bundled one.

    Raises:
        InvalidInput: there is no such folder; where it looks like a repository, the hint says how to get it.
    """
    hint = "give the folder of a checkpoint, or 'demo' for the bundled one"
    path = _path(name, hint)
    if path.is_dir():
        return path
    if name == DEMO:
        return demo_checkpoint()
    if path.is_file():
        raise InvalidInput(
            f"{name}: is a file", hint="give the checkpoint's folder, the one with config.json"
        )
    if REPO_ID.fullmatch(name):
        hint = f"is it a repository of the Hub? then first: turbopilot download {name} --to {name.split('/')[1]}"
    raise InvalidInput(f"{name}: no such folder", hint=hint)


def resolve_any(name: str) -> Path:
    """A file or folder to be looked at, or "demo" for the bundled checkpoint.

    Raises:
        InvalidInput: there is none; the hint names what lies beside it and is written much alike.
    """
    hint = "give a .gguf file, a checkpoint's folder, a .safetensors file or a PyTorch .bin"
    path = _path(name, hint)
    if path.exists():
        return path
    if name == DEMO:
        return demo_checkpoint()
    beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    if near := difflib.get_close_matches(path.name, beside, n=1):
        hint = f"did you mean {path.with_name(near[0])}?"
    elif REPO_ID.fullmatch(name):
        hint = f"is it a repository of the Hub? then first: turbopilot download {name} --to {path.name}"
    raise InvalidInput(f"{name}: no such file or folder", hint=hint)


def resolve_gguf(model: str | None, *, notify: Callable[[str], None]) -> Path:
    """A GGUF file: a path, or the bundled model where nothing (or "demo") is given, made on first use.

    Raises:
        InvalidInput: there is no such file.
    """
    if model and model != DEMO:
        hint = "give a .gguf file, or nothing for the bundled model"
        path = _path(model, hint)
        if path.is_dir() and (path / "config.json").is_file():
            raise InvalidInput(
                f"{model}: is a checkpoint, not a GGUF file",
                hint=f"convert it first: turbopilot convert {model}",
            )
        if not path.exists():
            raise InvalidInput(f"{model}: no such file", hint=hint)
        return path
    source = demo_checkpoint()
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()[:12]
    path = cache_folder() / f"demo-{digest}-{__version__}-f16.gguf"
    if not path.is_file():
        from converters import convert

        notify(f"converting the bundled model to {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        convert(source, path, dtype="f16", name="turbopilot-demo")
    return path


def parse_size(option: str, text: str) -> int:
    """A size as people write it, in bytes: 4GB and 4G are 4·10⁹, 4GiB is 4·2³⁰.

    Raises:
        InvalidInput: it is none, or none above 0; names the option.
    """
    parts = _SIZE.fullmatch(text.strip())
    if parts:
        step = 1024 if parts["binary"] else 1000
        size = float(parts["number"]) * step ** " KMGT".index(parts["unit"].upper() or " ")
        if size >= 1:
            return int(size)
    raise InvalidInput(f"{option} {text}: is no size", hint="write it as 500MB, 4GB or 4GiB")
