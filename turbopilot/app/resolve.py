"""Resolve what a user types for a checkpoint or a model to a file or folder.

A path, "demo", an alias of `turbopilot models`, or a repository of the Hub, with or without a type after a colon.
Missing files are downloaded, converted and quantized once; each step is reported before it starts.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from turbopilot.app.cached_artifacts import converted, imported
from turbopilot.base.errors import (
    HubUnreachable,
    InvalidInput,
    ModelNotFound,
    TokenizerMismatch,
    did_you_mean,
)
from turbopilot.base.progress import Reporter
from turbopilot.base.sizes import size
from turbopilot.formats.old_ggml import is_old

if TYPE_CHECKING:
    from turbopilot.hub import HubRequest
    from turbopilot.llama.geometry import Geometry

DEMO = "demo"
_CHECKPOINT_HINT = (
    "give the folder of a checkpoint, a name of turbopilot models, or owner/name on the Hub"
)
_MODEL_HINT = "give a .gguf file, or nothing for the bundled model"


def demo_checkpoint() -> Path:
    """Return the folder of the bundled checkpoint."""
    return Path(str(resources.files("turbopilot.demo_model")))


def resolve_checkpoint(
    name: str, reporter: Reporter, *, old_files: bool = False, only: str = ""
) -> Path:
    """Return a checkpoint's folder: a path, "demo" for the bundled one, an alias, or a repository of the Hub.

    Args:
        name: what was typed.
        reporter: receives downloads.
        old_files: accept a file of the original TurboPilot too.
        only: see `HubRequest`.
    """
    path = _path(name, _CHECKPOINT_HINT)
    if path.is_dir() or (old_files and path.is_file()):
        return path
    if name == DEMO:
        return demo_checkpoint()
    if path.is_file():
        raise InvalidInput(
            f"{name}: a file, not a folder",
            hint="give the checkpoint's folder, the one with config.json",
        )
    _refuse_path(name, _CHECKPOINT_HINT)
    wanted = parse_name(name)
    if wanted.quant or wanted.file:
        raise InvalidInput(f"{name}: names one file, not a checkpoint", hint=_CHECKPOINT_HINT)
    return _fetch(name, replace(wanted, only=only), reporter)[0]


def resolve_any(name: str) -> Path:
    """Return a file or folder to inspect: a path, "demo", or any name that the Hub's cache has all of."""
    hint = "give a .gguf file, a checkpoint's folder, a .safetensors file or a PyTorch .bin"
    path = _path(name, hint)
    if path.exists():
        return path
    if name == DEMO:
        return demo_checkpoint()
    beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    if near := difflib.get_close_matches(path.name, beside, n=1):
        hint = f"did you mean {path.with_name(near[0])}?"
        raise InvalidInput(f"{name}: no such file or folder", hint=hint)
    _refuse_path(name, hint)
    from turbopilot import hub

    wanted = parse_name(name)
    here = hub.cached(wanted)
    if here is None:
        raise InvalidInput(
            f"{name}: not on this machine", hint=f"fetch it first: turbopilot download {name}"
        )
    return here


def resolve_gguf(
    model: str | None, reporter: Reporter, *, model_type: str = "", type_name: str = ""
) -> Path:
    """Return the GGUF file of a path, an old ggml file, a checkpoint's folder, or any name; made if needed.

    Args:
        model: what was typed; None or "" is the bundled model.
        reporter: receives downloads and conversions.
        model_type: of an old ggml file, as the original's --model-type.
        type_name: type to make of a checkpoint; by default the best that fits this machine's memory.
    """
    if not model or model == DEMO:
        name = "turbopilot-demo"
        return converted(demo_checkpoint(), type_name or "F16", name=name, reporter=reporter)
    path = _path(model, _MODEL_HINT)
    if path.is_dir():
        type_name = type_name or _type_that_fits(model, _shape(path), reporter)
        return converted(path, type_name, name=path.resolve().name, reporter=reporter)
    if path.is_file():
        return _import(path, model_type, reporter) if is_old(path) else path
    _refuse_path(model, _MODEL_HINT)
    from turbopilot import catalog

    wanted = parse_name(model)
    if wanted.file and model.startswith(wanted.repo):  # not a pasted address
        reporter.notify(f"{model}: no such file here; looking for it on the Hub, in {wanted.repo}")
    type_name = type_name or wanted.quant
    known = catalog.find(wanted.repo)
    if not type_name and not wanted.file and known:  # before the download
        shape = known.geometry, known.parameters, known.context
        type_name = _type_that_fits(wanted.repo, shape, reporter)
    here, found = _fetch(model, wanted, reporter)
    if here.is_file():
        return _import(here, model_type, reporter) if is_old(here) else here
    type_name = type_name or _type_that_fits(found.repo, _shape(here), reporter)
    return converted(here, type_name, name=found.repo.rpartition("/")[2], reporter=reporter)


def parse_name(text: str, *, quant: str = "", revision: str | None = None) -> HubRequest:
    """Parse an alias of the catalogue, or whatever `hub.parse` accepts; an alias may have its own GGUF repository."""
    from turbopilot import catalog, hub

    name, colon, typed = text.partition(":")
    model = catalog.find(name) if "/" not in name else None
    if model and (typed or quant) and model.gguf_repository:
        text = f"{model.gguf_repository}{colon}{typed}"
    elif model:
        text, revision = f"{model.repository}{colon}{typed}", revision or model.revision or None
    elif re.fullmatch(r"[\w.-]+", name) and "/" not in text:  # a slash: https://…
        aliases = [m.alias for m in catalog.MODELS]
        raise InvalidInput(
            f"{name}: no model of that name is known",
            hint="give owner/name, or an alias: "
            + did_you_mean(name, aliases, "turbopilot models shows them"),
        )
    return hub.parse(text, quant=quant, revision=revision)


def _path(name: str, hint: str) -> Path:
    """Return what was typed as a path; refuse an unknown user's `~`, and names that are too long."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError) as e:
        raise InvalidInput(f"{name}: not a valid path: {e}", hint=hint) from e
    return path


def _refuse_path(name: str, hint: str) -> None:
    """Refuse a name that can only be a path, as no such file exists."""
    beginning = name.startswith(("/", "./", "../", "~", "\\")) or Path(name).is_absolute()
    if beginning or (name.endswith((".gguf", ".bin")) and name.count("/") < 2):
        raise InvalidInput(f"{name}: no such file", hint=hint)


def _fetch(name: str, wanted: HubRequest, reporter: Reporter) -> tuple[Path, HubRequest]:
    """Return the path of a name's files, and their repository; downloaded unless the Hub's cache has all of them.

    If the repository has no GGUF file of the type, return its checkpoint.
    """
    from turbopilot import hub

    checkpoint = _checkpoint_of(name, wanted) if wanted.quant else None
    if here := hub.cached(wanted):
        return here, wanted
    if checkpoint:
        here = hub.cached(checkpoint)
        if here and here.is_dir():  # a file would be a GGUF of another type
            return here, checkpoint
    if hub.is_offline():
        raise HubUnreachable(
            f"{name}: HF_HUB_OFFLINE is set, and the cache does not have all of {wanted.repo}",
            hint="unset HF_HUB_OFFLINE, and run it again",
        )
    found = wanted
    try:
        listing = hub.look_up(wanted)
    except ModelNotFound as e:
        if not checkpoint:
            raise
        found, listing = checkpoint, hub.look_up(checkpoint)
        if listing.one_model:
            raise e from None
    called = name if name == found.repo else f"{name} is {found.repo}"
    reporter.notify(f"{called}: fetching {len(listing.files)} files, {size(listing.n_bytes)}")
    with reporter.transfer() as progress:
        return hub.fetch(listing, progress=progress), found


def _checkpoint_of(name: str, wanted: HubRequest) -> HubRequest:
    """Return the checkpoint of a name: an alias's GGUF files are in another repository."""
    from turbopilot import catalog

    model = catalog.find(name.partition(":")[0])
    if model is None:
        return replace(wanted, quant="")
    return replace(wanted, repo=model.repository, revision=model.revision or None, quant="")


def _shape(folder: Path) -> tuple[Geometry, int, int]:
    from converters import planned_geometry

    return planned_geometry(folder)


def _type_that_fits(name: str, shape: tuple[Geometry, int, int], reporter: Reporter) -> str:
    """Return the best type for this machine, as `turbopilot models` shows it; `shape` is from `planned_geometry`."""
    from turbopilot.llama.footprint import best_type, default_context, footprint, memory_budget
    from turbopilot.llama.geometry import weights_bytes

    geometry, n_weights, trained = shape
    n_ctx, budget = default_context(trained), memory_budget()
    chosen = best_type(geometry, n_weights, n_ctx, budget)
    weights = weights_bytes(geometry, n_weights, chosen or "Q4_0")
    n_bytes = size(footprint(geometry, weights, n_ctx).total)
    if not chosen:
        raise InvalidInput(
            f"{name}: does not fit: as Q4_0 it takes {n_bytes}, and models may take {size(budget)} of this machine's "
            "memory",
            hint=f"make a smaller file: turbopilot quantize {name} --fit {size(budget).replace(' ', '')}; or take "
            "another model: turbopilot models",
        )
    reporter.notify(
        f"{chosen} for {n_weights / 1e9:.2f} billion weights: takes {n_bytes} of the {size(budget)} that models may "
        "take; another with NAME:TYPE, or turbopilot quantize"
    )
    return chosen


def _import(old: Path, model_type: str, reporter: Reporter) -> Path:
    """Import an old ggml file; if its vocabulary has lost bytes, with the original's tokenizer."""
    try:
        return imported(old, reporter, model_type=model_type)
    except TokenizerMismatch as e:
        from converters.legacy_ggml import TokenizerNeeded
        from turbopilot import catalog

        known = next((m for m in catalog.MODELS if m.old_bin and m.old_bin.file == old.name), None)
        known = known or catalog.find("stablecode-instruct-alpha-3b")
        if known is None or not isinstance(e, TokenizerNeeded):
            raise
        reporter.notify(
            f"{e.message}; taking {known.repository}'s tokenizer, and comparing it with the file's"
        )
        folder = resolve_checkpoint(known.repository, reporter, only="tokenizer")
        return imported(old, reporter, model_type=model_type, tokenizer=folder)
