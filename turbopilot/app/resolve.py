"""Names → files: what a person may type where a checkpoint or a model is wanted.

A path, "demo", a known model's alias (`turbopilot models`), or a repository of the Hub, with or without a
type behind a colon. What is not here is fetched, and what has to be made is made, once; each step is said
before it is done.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from turbopilot.app.cached_artifacts import Notify, converted, imported
from turbopilot.base.errors import HubUnreachable, InvalidInput, ModelNotFound
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.hub import Wanted

DEMO = "demo"


def demo_checkpoint() -> Path:
    """The folder of the bundled checkpoint."""
    return Path(str(resources.files("turbopilot.demo_model")))


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


def _not_a_path(name: str, hint: str) -> None:
    """End on what can only be meant as a path, since nothing is there.

    Raises:
        InvalidInput: it is one.
    """
    beginning = name.startswith(("/", "./", "../", "~", "\\")) or Path(name).is_absolute()
    if beginning or (name.endswith((".gguf", ".bin")) and name.count("/") < 2):
        raise InvalidInput(f"{name}: no such file", hint=hint)


def resolve_checkpoint(
    name: str, *, notify: Notify = console.info, old_files: bool = False, only: str = ""
) -> Path:
    """A checkpoint's folder: a path, "demo" for the bundled one, an alias, or a repository of the Hub.

    Args:
        name: what the person typed.
        notify: hears what is fetched, before it is.
        old_files: a file of the original TurboPilot will do too.
        only: "tokenizer" to leave the weights where they are.

    Raises:
        InvalidInput: there is no such thing.
        DownloadError: it cannot be fetched.
    """
    hint = "give the folder of a checkpoint, a name of turbopilot models, or owner/name on the Hub"
    path = _path(name, hint)
    if path.is_dir():
        return path
    if name == DEMO:
        return demo_checkpoint()
    if path.is_file():
        if old_files:
            return path
        raise InvalidInput(
            f"{name}: is a file", hint="give the checkpoint's folder, the one with config.json"
        )
    _not_a_path(name, hint)
    wanted = _parsed(name)
    if wanted.quant or wanted.file:
        raise InvalidInput(f"{name}: names one file; a checkpoint is wanted", hint=hint)
    return _fetched(name, wanted, notify, only=only)[0]


def resolve_any(name: str) -> Path:
    """A file or folder to be looked at: a path, "demo", or any name of which all is here already.

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
        raise InvalidInput(f"{name}: no such file or folder", hint=hint)
    _not_a_path(name, hint)
    from turbopilot import hub

    wanted = _parsed(name)
    here = hub.cached(wanted.repo, wanted.revision, quant=wanted.quant, file=wanted.file)
    if here is None:
        raise InvalidInput(
            f"{name}: is not on this machine", hint=f"fetch it first: turbopilot download {name}"
        )
    return here


def resolve_gguf(
    model: str | None,
    *,
    notify: Notify = console.info,
    model_type: str = "",
    type_name: str = "",
) -> Path:
    """A GGUF file: a path, an old ggml file, a checkpoint's folder, or any name; made where it has to be.

    Args:
        model: what the person typed; nothing is the bundled model.
        notify: hears what is fetched and made, before it is.
        model_type: of an old ggml file, as the original's --model-type.
        type_name: what to make of a checkpoint; by default what suits this machine's memory.

    Raises:
        InvalidInput: there is no such thing.
        TurboPilotError: it cannot be fetched or made.
    """
    if not model or model == DEMO:
        return converted(
            demo_checkpoint(), type_name or "F16", name="turbopilot-demo", notify=notify
        )
    path = _path(model, "give a .gguf file, or nothing for the bundled model")
    if path.is_dir():
        return _made(path, path.resolve().name, type_name, notify)
    if path.is_file():
        from converters.legacy_ggml import is_old

        return _imported(path, model_type, notify) if is_old(path) else path
    _not_a_path(model, "give a .gguf file, or nothing for the bundled model")
    wanted = _parsed(model)
    if wanted.file and model.startswith(wanted.repo):  # not a pasted address
        notify(f"{model}: no such file here; looking for it on the Hub, in {wanted.repo}")
    here, found = _fetched(model, wanted, notify)
    if here.is_file():
        from converters.legacy_ggml import is_old

        return _imported(here, model_type, notify) if is_old(here) else here
    return _made(here, found.repo.rpartition("/")[2], type_name or wanted.quant, notify)


def _parsed(name: str) -> Wanted:
    from turbopilot import catalog, hub

    return hub.parse(name, lookup=catalog.find, aliases=[m.alias for m in catalog.MODELS])


def _fetched(name: str, wanted: Wanted, notify: Notify, *, only: str = "") -> tuple[Path, Wanted]:
    """What the Hub has under a name: from its own cache where that has all of it, without asking anybody.

    A type that the repository has no GGUF file of is wanted of its checkpoint, to be made from that.

    Returns:
        Where it is, and which repository's it is.
    """
    from turbopilot import hub

    wish = {"quant": wanted.quant} if wanted.quant else {"file": wanted.file, "only": only}
    checkpoint = _checkpoint_of(name, wanted) if wanted.quant else None
    if here := hub.cached(wanted.repo, wanted.revision, **wish):
        return here, wanted
    if checkpoint:
        here = hub.cached(checkpoint.repo, checkpoint.revision)
        if here and here.is_dir():  # a file would be a GGUF of another type
            return here, checkpoint
    if hub.is_offline():
        raise HubUnreachable(
            f"{name}: HF_HUB_OFFLINE is set, and the cache does not have all of {wanted.repo}",
            hint="unset HF_HUB_OFFLINE, and run it again",
        )
    found = wanted
    try:
        listing = hub.look_up(wanted.repo, wanted.revision, **wish)
    except ModelNotFound as e:
        if not checkpoint:
            raise
        found, listing = checkpoint, hub.look_up(checkpoint.repo, checkpoint.revision)
        if listing.one_model:
            raise e from None
    called = name if name == found.repo else f"{name} is {found.repo}"
    notify(f"{called}: fetching {len(listing.files)} files, {console.size(listing.n_bytes)}")
    with console.transfer() as progress:
        return hub.fetch(listing, progress=progress), found


def _checkpoint_of(name: str, wanted: Wanted) -> Wanted:
    """Where the weights are that a type can be made of: an alias's ready GGUF files lie in another place."""
    from turbopilot import catalog

    model = catalog.find(name.partition(":")[0])
    if model is None or not model.repository:
        return replace(wanted, quant="")
    return replace(wanted, repo=model.repository, revision=model.revision or None, quant="")


def _made(folder: Path, name: str, type_name: str, notify: Notify) -> Path:
    """A checkpoint as a GGUF of the type, or of the best that this machine has the memory for."""
    if not type_name:
        type_name = _type_that_fits(folder, notify)
    return converted(folder, type_name, name=name, notify=notify)


def _type_that_fits(folder: Path, notify: Notify) -> str:
    """Q8_0, which loses next to nothing, where it fills less than half of the memory; else Q4_K_M."""
    from converters import planned_weights
    from turbopilot.base.memory import total_bytes

    n, memory = planned_weights(folder), total_bytes()
    chosen, bits = ("Q8_0", 8.5) if n * 8.5 / 8 < memory / 2 else ("Q4_K_M", 4.9)
    notify(
        f"{chosen} for {n / 1e9:.2f} billion weights: {console.size(n * bits / 8)} of this machine's "
        f"{console.size(memory)}; another with NAME:TYPE, or turbopilot quantize"
    )
    return chosen


def _imported(old: Path, model_type: str, notify: Notify) -> Path:
    """An old ggml file as GGUF; where its vocabulary has lost bytes, with the original's tokenizer."""
    from converters.legacy_ggml import TokenizerNeeded

    try:
        return imported(old, model_type=model_type, notify=notify)
    except TokenizerNeeded as e:
        from turbopilot import catalog

        known = next((m for m in catalog.MODELS if m.old_bin and m.old_bin.file == old.name), None)
        known = known or catalog.find("stablecode-instruct-alpha-3b")
        if known is None:
            raise
        notify(
            f"{e.message}; taking {known.repository}'s tokenizer, and comparing it with the file's"
        )
        folder = resolve_checkpoint(known.repository, notify=notify, only="tokenizer")
        return imported(old, model_type=model_type, tokenizer=folder, notify=notify)
