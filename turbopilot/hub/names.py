"""What a person types for a model of the Hub → repository, revision and file. Pure: asks nobody."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import unquote

from turbopilot.base.errors import InvalidInput, did_you_mean

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
_QUANT = re.compile(r"\w[\w.-]*")
_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>.+)", re.DOTALL)
_SITE = re.compile(
    r"(https?://)?(www\.)?(huggingface\.co|hf\.co|hf-mirror\.com)/(?=.)", re.IGNORECASE
)
_PAGE = re.compile(
    r"(?P<repo>[^/]+/[^/]+)(/(?P<kind>tree|blob|resolve|raw)/(?P<revision>[^/]+)(/(?P<file>.+))?)?/?"
)
FILE_KINDS = (".gguf", ".bin")
"""What may be asked for by a file's name: GGUF, and the ggml files from before it."""


class KnownModel(Protocol):
    """What a catalogue says of a model, as far as it is needed here; "" where there is none."""

    @property
    def repository(self) -> str:
        """owner/name of the checkpoint."""

    @property
    def gguf_repository(self) -> str:
        """owner/name of ready GGUF files."""

    @property
    def revision(self) -> str:
        """The checkpoint's commit that was tried."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of the Hub.

    Attributes:
        repo: owner/name.
        revision: a branch, tag or commit; None for the default branch.
        quant: type of the GGUF file, "" where none was named.
        file: path of a file in the repository, "" for what is needed of all.
    """

    repo: str
    revision: str | None = None
    quant: str = ""
    file: str = ""


def _unknown(alias: str) -> KnownModel | None:
    """No alias is known."""


def parse(
    text: str,
    *,
    quant: str = "",
    revision: str | None = None,
    lookup: Callable[[str], KnownModel | None] = _unknown,
    aliases: Iterable[str] = (),
) -> Wanted:
    """Read ALIAS, owner/name, either with :QUANT, owner/name/file.gguf, or the address of a page of the Hub.

    Args:
        text: what was typed or pasted.
        quant: a type named otherwise (`--quant`).
        revision: a revision named otherwise (`--revision`); it counts more than the alias's own.
        lookup: finds an alias's model, or None.
        aliases: all that `lookup` knows, to offer the nearest.

    Raises:
        InvalidInput: it is none of these, or names two types or revisions.

    >>> parse("owner/name:Q4_K_M")
    Wanted(repo='owner/name', revision=None, quant='Q4_K_M', file='')
    >>> parse("https://huggingface.co/owner/name/blob/main/a/b.gguf").file
    'a/b.gguf'
    """
    wanted = _page(text) if _SITE.match(text) else _name(text, quant, lookup, aliases)
    if quant and wanted.file:
        raise InvalidInput(f"{text}: is one file, of one type", hint=f"leave out --quant {quant}")
    if quant and wanted.quant not in ("", quant):
        raise InvalidInput(
            f"{text}: names the type {wanted.quant}, and --quant {quant}", hint="name one of them"
        )
    if revision and _SITE.match(text) and wanted.revision not in (None, revision):
        raise InvalidInput(
            f"{text}: names the revision {wanted.revision}, and --revision {revision}",
            hint="name one of them",
        )
    chosen = quant or wanted.quant
    if chosen and not _QUANT.fullmatch(chosen):
        raise InvalidInput(f"{chosen}: not a type's name", hint="name one as Q4_K_M")
    return replace(wanted, quant=chosen, revision=revision or wanted.revision)


def check_file(name: str) -> None:
    """Refuse to fetch a single file that is no model.

    Raises:
        InvalidInput: it is neither a GGUF file nor an old `.bin`.
    """
    if not name.lower().endswith(FILE_KINDS):
        raise InvalidInput(
            f"{name}: only .gguf and old .bin files are fetched one by one",
            hint="give owner/name alone for a checkpoint",
        )


def _name(
    text: str, quant: str, lookup: Callable[[str], KnownModel | None], aliases: Iterable[str]
) -> Wanted:
    name, colon, typed = text.partition(":")
    if colon and not _QUANT.fullmatch(typed):
        raise InvalidInput(f"{text}: no type after the colon", hint="name one as owner/name:Q4_K_M")
    if "/" not in name and (model := lookup(name)) is not None:
        if (typed or quant) and model.gguf_repository:
            return Wanted(model.gguf_repository, None, typed)
        repo = model.repository or model.gguf_repository
        return Wanted(repo, (model.revision or None) if repo == model.repository else None, typed)
    if REPO_ID.fullmatch(name):
        return Wanted(name, None, typed)
    if not colon and (parts := _FILE.fullmatch(name)):
        if not parts["file"].lower().endswith(FILE_KINDS):
            raise _not_a_repository(text)
        return Wanted(parts["repo"], file=parts["file"])
    known = list(aliases)
    if known and re.fullmatch(r"[\w.-]+", name):
        raise InvalidInput(
            f"{name}: no model of that name is known",
            hint="give owner/name, or an alias: "
            + did_you_mean(name, known, "turbopilot models shows them"),
        )
    raise _not_a_repository(text)


def _page(text: str) -> Wanted:
    path = re.split(r"[?#]", _SITE.sub("", text, count=1))[0]
    path, colon, typed = path.partition(":")  # as `ollama run hf.co/owner/name:Q4_K_M`
    found = _PAGE.fullmatch(path)
    if not found or not REPO_ID.fullmatch(found["repo"]):
        raise _not_a_repository(text)
    if found["repo"].split("/")[0] in ("datasets", "spaces", "models", "docs", "api"):
        raise InvalidInput(f"{text}: is not a model's page", hint="give the address of a model")
    if colon and not _QUANT.fullmatch(typed):
        raise InvalidInput(f"{text}: no type after the colon", hint="name one as owner/name:Q4_K_M")
    file = unquote(found["file"] or "") if found["kind"] != "tree" else ""
    if file:
        check_file(file)
    revision = unquote(found["revision"]) if found["revision"] else None
    return Wanted(found["repo"], None if revision == "main" else revision, typed, file)


def _not_a_repository(text: str) -> InvalidInput:
    return InvalidInput(
        f"{text}: not a repository of the Hub",
        hint="give owner/name, as in Salesforce/codegen-350M-mono, or owner/name/FILE.gguf",
    )
