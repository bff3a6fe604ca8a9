"""Model files of a server, from the model names on the command line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

from serve.adapters import MOST_SCALE, AdapterFile, split_scale
from serve.model_choice import ModelChoice, NamedModel
from serve.settings import ServerOptions
from turbopilot.app.certificates import at_start, of_valid
from turbopilot.app.resolve import resolve_gguf
from turbopilot.app.vocabulary import resolve_vocabulary
from turbopilot.base.errors import InvalidInput
from turbopilot.base.progress import Reporter
from turbopilot.catalog import recognize_file
from turbopilot.formats.gguf.file import GgufHeader, read_gguf


def with_models(options: ServerOptions, choice: ModelChoice, reporter: Reporter) -> ServerOptions:
    """Return the options with the model files filled in; download and convert models if needed."""
    caches = options.caches
    if caches.prefix_folder and caches.prefix_bytes == 0:
        raise InvalidInput(
            "--prefix-cache-dir cannot be combined with --prefix-cache 0",
            hint="leave one of them out",
        )
    if caches.prefix_folder:
        _check_folder(caches.prefix_folder)
    if choice.draft and not caches.drafts:
        raise InvalidInput("--draft and --no-drafts cannot be combined", hint="give one of them")
    named, wish = _named(choice.named), options.model.devices.wish
    if options.upstream.addresses:
        return _with_vocabulary(options, choice, reporter)
    if choice.draft:
        caches = replace(caches, draft_file=resolve_gguf(choice.draft, reporter, wish=wish))
    if choice.model or not named:
        named = {"": choice.model or "", **named}
    models: list[NamedModel] = []
    for name, given in named.items():
        kind = (
            choice.model_type if not models else None
        )  # --model-type applies to the default model
        file = resolve_gguf(given, reporter, model_type=kind or "", wish=wish)
        header = read_gguf(file)
        model = NamedModel(name, file, certificate=of_valid(header, reporter))
        models.append(_with_facts(model, header))
    default, *more = models
    return replace(
        options, model_file=default.file, model_name=default.name, more=tuple(more), caches=caches,
        model=options.model.of(default),
        adapters=replace(options.adapters, files=tuple(map(_adapter, choice.lora))),
    )  # fmt: skip


def _with_vocabulary(
    options: ServerOptions, choice: ModelChoice, reporter: Reporter
) -> ServerOptions:
    """Return the options with the file of the tokenizer, for a model that upstreams compute."""
    given = (("--draft", choice.draft), ("--lora", choice.lora), ("--model", choice.named))
    for name, value in given:
        if value:
            raise InvalidInput(
                f"--upstream and {name} cannot be combined: the upstreams load the models",
                hint=f"leave out {name}, and give it to the upstreams if they have it",
            )
    file = resolve_vocabulary(choice.model, reporter)
    model = _with_facts(NamedModel("", file), read_gguf(file))
    return replace(options, model_file=file, model=options.model.of(model))


def _with_facts(model: NamedModel, header: GgufHeader) -> NamedModel:
    """Return a model with what the catalogue knows about it."""
    if known := recognize_file(header):
        return replace(
            model, chat_template=known.chat_template, family=known.family, fim=known.fim, next_edit=known.next_edit
        )  # fmt: skip
    return model


def _check_folder(folder: Path) -> None:
    """Create the folder of the prefix cache if it is missing, and check that it is writable."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as e:  # ValueError: the path has a NUL character
        reason = "is not a folder" if isinstance(e, FileExistsError) else None
        reason = reason or f"cannot be used: {getattr(e, 'strerror', e)}"
        raise InvalidInput(
            f"--prefix-cache-dir {str(folder)[:200]}: {reason}",
            hint="give a folder that you can write to, or one that does not exist yet",
        ) from None


def _named(entries: tuple[str, ...]) -> dict[str, str]:
    """Parse NAME=FILE entries."""
    found: dict[str, str] = {}
    for text in entries:
        name, _, model = text.partition("=")
        if not (name and model and name.isprintable()):
            raise InvalidInput(
                f"--model {text}: is not of the form NAME=FILE",
                hint="write --model small=small.gguf, or give the file as MODEL",
            )
        if name in found:
            raise InvalidInput(
                f"--model: two models are called {name}", hint="give each model its own name"
            )
        found[name] = model
    return found


def _adapter(text: str) -> AdapterFile:
    """Parse FILE or FILE:SCALE."""
    file, colon, scale = split_scale(text)
    path = Path(file).expanduser()
    if not path.is_file():
        raise InvalidInput(
            f"--lora {text}: no such file: {path}",
            hint="give a GGUF adapter; turbopilot convert ADAPTER --base MODEL makes one from PEFT's files",
        )
    try:
        number = float(scale) if colon else 1.0
    except ValueError:
        number = math.nan
    if not abs(number) <= MOST_SCALE:
        raise InvalidInput(
            f"--lora {text}: the scale {scale!r} is not a number from -{MOST_SCALE:g} to {MOST_SCALE:g}",
            hint=f"write for example --lora {file}:0.5",
        )
    return AdapterFile(path, number)


def certificate_lines(options: ServerOptions, reporter: Reporter) -> Iterator[str]:
    """Yield a line about each model's certificate; cached artifacts without one are skipped.

    A certificate says nothing about what upstreams compute.
    """
    if options.upstream.addresses:
        return
    certificate = options.model.certificate
    default = NamedModel(options.model_name, options.model_file, certificate=certificate)
    for model in (default, *options.more):
        line = f"verified: {model.certificate}" if model.certificate else ""
        if line := line or at_start(model.file, reporter):
            yield f"{model.name or model.file.name}: {line}" if options.more else line
