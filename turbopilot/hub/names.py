"""Parser for model names and URLs of the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import unquote

from turbopilot.base.errors import InvalidInput

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
_QUANT = re.compile(r"\w[\w.-]*")
_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>.+)", re.DOTALL)
_SITE = re.compile(
    r"(https?://)?(www\.)?(huggingface\.co|hf\.co|hf-mirror\.com)/(?=.)", re.IGNORECASE
)
_PAGE = re.compile(
    r"(?P<repo>[^/]+/[^/]+)(/(?P<kind>tree|blob|resolve|raw)/(?P<revision>[^/]+)(/(?P<file>.+))?)?/?"
)
# The rules of `git check-ref-format --allow-onelevel`, and no C1 control characters or surrogates.
_NOT_A_REVISION = re.compile(
    r"[\x00-\x20\x7f-\x9f~^:?*\[\\\ud800-\udfff]|\.\.|@\{|//|^@$|^/|/$|\.$|(^|/)\.|\.lock(/|$)"
)
_LONGEST_REVISION = 200  # bytes; it becomes a file name in the cache
FILE_KINDS = (".gguf", ".bin")
"""Suffixes of files that can be downloaded individually: GGUF and old ggml."""


@dataclass(frozen=True, slots=True)
class HubRequest:
    """Request for files of one repository.

    Attributes:
        repo: owner/name.
        revision: a branch, tag or commit; None for the default branch.
        quant: quantization type of the GGUF file; "" if none was given.
        file: path of a GGUF or old `.bin` file in the repository; "" for all files that the model needs.
        only: "tokenizer" for a checkpoint's config and tokenizer without weights, else "".
    """

    repo: str
    revision: str | None = None
    quant: str = ""
    file: str = ""
    only: str = ""


def parse(text: str, *, quant: str = "", revision: str | None = None) -> HubRequest:
    """Parse owner/name, owner/name:QUANT, owner/name/file.gguf, or the URL of a page of the Hub.

    >>> parse("owner/name:Q4_K_M")
    HubRequest(repo='owner/name', revision=None, quant='Q4_K_M', file='', only='')
    >>> parse("https://huggingface.co/owner/name/blob/main/a/b.gguf").file
    'a/b.gguf'
    """
    wanted = _page(text) if _SITE.match(text) else _name(text)
    if quant and wanted.file:
        raise InvalidInput(
            f"{text}: is one file, so --quant cannot be used", hint=f"omit --quant {quant}"
        )
    if quant and wanted.quant not in ("", quant):
        raise InvalidInput(
            f"{text}: names the type {wanted.quant}, but --quant is {quant}",
            hint="give only one of them",
        )
    if revision and wanted.revision not in (None, revision):
        raise InvalidInput(
            f"{text}: names the revision {wanted.revision}, but --revision is {revision}",
            hint="give only one of them",
        )
    if quant and not _QUANT.fullmatch(quant):
        raise InvalidInput(f"{quant}: not a quantization type", hint="give a type such as Q4_K_M")
    return replace(wanted, quant=quant or wanted.quant, revision=revision or wanted.revision)


def check_revision(name: str) -> None:
    """Raise InvalidInput if Git does not accept a branch, tag or commit of this name.

    The name becomes a path in the cache, so `..` and absolute paths must not pass.
    """
    if (
        not name
        or _NOT_A_REVISION.search(name)
        or len(name.encode("utf-8", "replace")) > _LONGEST_REVISION
    ):
        raise InvalidInput(
            f"{name!r:.100}: not a name of a revision",
            hint="give a branch, tag or commit, such as main, v1.0 or refs/pr/1",
        )


def check_file(name: str) -> None:
    """Raise InvalidInput if the name is neither a GGUF file nor an old `.bin`."""
    if not name.lower().endswith(FILE_KINDS):
        raise InvalidInput(
            f"{name}: only .gguf and old .bin files can be downloaded individually",
            hint="to download a checkpoint, give only owner/name",
        )


def _name(text: str) -> HubRequest:
    name, quant = _split_type(text, text)
    if REPO_ID.fullmatch(name):
        return HubRequest(name, quant=quant)
    parts = _FILE.fullmatch(name)
    if parts and not quant and parts["file"].lower().endswith(FILE_KINDS):
        return HubRequest(parts["repo"], file=parts["file"])
    raise _not_a_repository(text)


def _split_type(path: str, text: str) -> tuple[str, str]:
    name, colon, quant = path.partition(":")
    if colon and not _QUANT.fullmatch(quant):
        raise InvalidInput(
            f"{text}: no quantization type after the colon", hint="write it as owner/name:Q4_K_M"
        )
    return name, quant


def _page(text: str) -> HubRequest:
    path = re.split(r"[?#]", _SITE.sub("", text, count=1))[0]
    path, quant = _split_type(path, text)  # as in `ollama run hf.co/owner/name:Q4_K_M`
    found = _PAGE.fullmatch(path)
    if not found or not REPO_ID.fullmatch(found["repo"]):
        raise _not_a_repository(text)
    if found["repo"].split("/")[0] in ("datasets", "spaces", "models", "docs", "api"):
        raise InvalidInput(f"{text}: not the page of a model", hint="give the URL of a model")
    file = unquote(found["file"] or "") if found["kind"] != "tree" else ""
    if file:
        check_file(file)
    revision = unquote(found["revision"]) if found["revision"] else None
    return HubRequest(found["repo"], None if revision == "main" else revision, quant, file)


def _not_a_repository(text: str) -> InvalidInput:
    return InvalidInput(
        f"{text}: not a repository of the Hub",
        hint="give owner/name, as in Salesforce/codegen-350M-mono, or owner/name/FILE.gguf",
    )
