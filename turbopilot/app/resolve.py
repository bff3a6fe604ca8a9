"""Resolve model names from the command line to files or folders.

A name is a path, "demo", an alias listed by `turbopilot models`, or a Hub repository, optionally with a quantization
type after a colon. Missing files are downloaded, converted and quantized once; each step is reported before it starts.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from turbopilot.app.cached_artifacts import converted, imported
from turbopilot.app.type_choice import type_that_fits
from turbopilot.base.counts import count
from turbopilot.base.errors import (
    HubUnreachable,
    InvalidInput,
    ModelNotFound,
    TokenizerMismatch,
    did_you_mean,
)
from turbopilot.base.progress import Reporter
from turbopilot.base.quoting import shortened
from turbopilot.base.sizes import size
from turbopilot.formats.old_ggml import is_old
from turbopilot.llama.placement_wish import PlacementWish

if TYPE_CHECKING:
    from turbopilot.hub import HubRequest
    from turbopilot.llama.geometry import Geometry

DEMO = "demo"
_CHECKPOINT_HINT = (
    "give a checkpoint folder, a name from turbopilot models, or owner/name on the Hub"
)
_MODEL_HINT = "give a .gguf file, or leave it out to use the bundled model"


def demo_checkpoint() -> Path:
    """Return the folder of the bundled demo checkpoint."""
    return Path(str(resources.files("turbopilot.demo_model")))


def resolve_checkpoint(
    name: str, reporter: Reporter, *, old_files: bool = False, only: str = ""
) -> Path:
    """Return a checkpoint's folder; download it if needed.

    Args:
        name: path, "demo" for the bundled checkpoint, alias, or Hub repository.
        reporter: receives messages and download progress.
        old_files: accept the path of a file too, such as an old ggml .bin.
        only: see `HubRequest`.
    """
    path = _path(name, _CHECKPOINT_HINT)
    if path.is_dir() or (old_files and path.is_file()):
        return path
    if name == DEMO:
        return demo_checkpoint()
    if path.is_file():
        raise InvalidInput(
            f"{name}: is a file, not a folder",
            hint="give the checkpoint's folder, which contains config.json",
        )
    _refuse_path(name, _CHECKPOINT_HINT)
    wanted = parse_name(name)
    if wanted.quant or wanted.file:
        raise InvalidInput(f"{name}: is a single file, not a checkpoint", hint=_CHECKPOINT_HINT)
    return _fetch(name, replace(wanted, only=only), reporter)[0]


def resolve_base(adapter: Path, name: str, reporter: Reporter) -> Path:
    """Return the folder with the config of the model that an adapter was trained on.

    Args:
        adapter: the adapter's folder.
        name: the model as for `resolve_checkpoint`; "" means the folder that adapter_config.json names.
        reporter: receives messages and download progress.
    """
    from converters import read_settings

    if name:
        return resolve_checkpoint(name, reporter, only="tokenizer")
    base = read_settings(adapter).base
    if base and (Path(base) / "config.json").is_file():
        return Path(base)
    known = f"it was trained on {shortened(base)}" if base else "its config does not name the model"
    raise InvalidInput(
        f"{adapter}: is an adapter; {known}",
        hint="give that model, a folder or a name: --base MODEL",
    )


def resolve_any(name: str) -> Path:
    """Return the file or folder of a path, "demo", or a name whose files are complete in the Hub's cache."""
    hint = "give a .gguf file, a checkpoint folder, a .safetensors file or a PyTorch .bin file"
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
            f"{name}: not on this machine", hint=f"download it first: turbopilot download {name}"
        )
    return here


def resolve_gguf(
    model: str | None,
    reporter: Reporter,
    *,
    model_type: str = "",
    type_name: str = "",
    wish: PlacementWish = PlacementWish(),  # noqa: B008 — frozen
) -> Path:
    """Return the GGUF file of a model; download, convert and quantize it if needed.

    Args:
        model: path of a GGUF file, old ggml file or checkpoint folder, alias, or Hub repository; None or "" for the
            bundled model.
        reporter: receives messages and progress.
        model_type: model type of an old ggml file, one of the original TurboPilot's `--model-type` values.
        type_name: quantization type for a checkpoint; by default the best one that fits on this machine.
        wish: devices to fit it on.
    """
    if not model or model == DEMO:
        name = "turbopilot-demo"
        return converted(demo_checkpoint(), type_name or "F16", name=name, reporter=reporter)
    path = _path(model, _MODEL_HINT)
    if path.is_dir():
        type_name = type_name or type_that_fits(model, _shape(path), reporter, wish)
        return converted(path, type_name, name=path.resolve().name, reporter=reporter)
    if path.is_file():
        return _import(path, model_type, reporter) if is_old(path) else path
    _refuse_path(model, _MODEL_HINT)
    from turbopilot import catalog

    wanted = parse_name(model)
    if wanted.file and model.startswith(wanted.repo):  # not a pasted URL
        reporter.notify(f"{model}: no such local file; looking for it on the Hub, in {wanted.repo}")
    type_name = type_name or wanted.quant
    known = catalog.find(wanted.repo)
    if not type_name and not wanted.file and known:  # before the download
        shape = known.geometry, known.parameters, known.context
        type_name = type_that_fits(wanted.repo, shape, reporter, wish)
    here, found = _fetch(model, wanted, reporter)
    if here.is_file():
        return _import(here, model_type, reporter) if is_old(here) else here
    type_name = type_name or type_that_fits(found.repo, _shape(here), reporter, wish)
    return converted(here, type_name, name=found.repo.rpartition("/")[2], reporter=reporter)


def parse_name(text: str, *, quant: str = "", revision: str | None = None) -> HubRequest:
    """Parse an alias from the catalogue, or any name that `hub.parse` accepts.

    If a type is given and the alias has a GGUF repository, return that repository.
    """
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
            f"{name}: unknown model name",
            hint="give owner/name, or a known name: "
            + did_you_mean(name, aliases, "turbopilot models lists them"),
        )
    return hub.parse(text, quant=quant, revision=revision)


def _path(name: str, hint: str) -> Path:
    """Return the name as a path; reject names that are too long, and `~user` of an unknown user."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError) as e:
        raise InvalidInput(f"{name}: is not a valid path: {e}", hint=hint) from e
    return path


def _refuse_path(name: str, hint: str) -> None:
    """Reject a name that looks like a path, because no such file exists."""
    beginning = name.startswith(("/", "./", "../", "~", "\\")) or Path(name).is_absolute()
    if beginning or (name.endswith((".gguf", ".bin")) and name.count("/") < 2):
        raise InvalidInput(f"{name}: no such file", hint=hint)


def _fetch(name: str, wanted: HubRequest, reporter: Reporter) -> tuple[Path, HubRequest]:
    """Return the path of a model's files and their repository; download files that are missing from the Hub's cache.

    If the repository has no GGUF file of the requested type, return the model's checkpoint.
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
            f"{name}: HF_HUB_OFFLINE is set, and {wanted.repo} is not complete in the cache",
            hint="unset HF_HUB_OFFLINE and run the command again",
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
    reporter.notify(
        f"{called}: downloading {count(len(listing.files), 'file')}, {size(listing.n_bytes)}"
    )
    with reporter.transfer() as progress:
        return hub.fetch(listing, progress=progress), found


def _checkpoint_of(name: str, wanted: HubRequest) -> HubRequest:
    """Return the request for a model's checkpoint; an alias keeps its GGUF files in another repository."""
    from turbopilot import catalog

    model = catalog.find(name.partition(":")[0])
    if model is None:
        return replace(wanted, quant="")
    return replace(wanted, repo=model.repository, revision=model.revision or None, quant="")


def _shape(folder: Path) -> tuple[Geometry, int, int]:
    from converters import planned_geometry

    return planned_geometry(folder)


def _import(old: Path, model_type: str, reporter: Reporter) -> Path:
    """Import an old ggml file; if its vocabulary has lost bytes, use the original model's tokenizer."""
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
            f"{e.message}; using {known.repository}'s tokenizer, after comparing it with the file's"
        )
        folder = resolve_checkpoint(known.repository, reporter, only="tokenizer")
        return imported(old, reporter, model_type=model_type, tokenizer=folder)
