"""`turbopilot download`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbopilot.base.errors import HubUnreachable
from turbopilot.base.sizes import size
from turbopilot.commands.verb import AsJson, takes
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.hub import HubRequest, Listing


# fmt: off
@dataclass(frozen=True, slots=True)
class DownloadArguments:
    """Arguments of `turbopilot download`."""

    model: Annotated[str, typer.Argument(
        help="An alias, owner/name, owner/name:Q4_K_M, owner/name/FILE.gguf, or the URL of a page of the Hub.",
    )]
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: main.")] = None
    to: Annotated[Path | None, typer.Option(help="Folder to download to. Default: the Hub's own cache.")] = None
    quant: Annotated[str, typer.Option(help="Type of a ready GGUF file: Q4_K_M and so on, as after the colon.")] = ""
    only: Annotated[str, typer.Option(help="tokenizer: config and tokenizer, without the weights.")] = ""
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and sizes, download nothing.")] = False
    as_json: AsJson = False
# fmt: on


@takes(DownloadArguments)
def download(given: DownloadArguments) -> None:
    """Download a checkpoint, or a ready GGUF file, from the Hugging Face Hub.

    Takes only what is needed: config, tokenizer and weights of a checkpoint, safetensors before pickles, never
    code. An interrupted download is resumed by the same command.

    HF_TOKEN or `hf auth login` opens gated models; HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy;
    HF_HUB_OFFLINE=1 only shows where the model is in the cache.

    Example: turbopilot download Salesforce/codegen-350M-mono --to codegen-350M-mono

    Example: turbopilot download owner/name-GGUF:Q4_K_M
    """
    from turbopilot import hub
    from turbopilot.app.resolve import parse_name
    from turbopilot.render import download as text

    name = parse_name(given.model, quant=given.quant, revision=given.revision)
    wanted = replace(name, only=given.only)
    if hub.is_offline():
        _report_cached(wanted, given)
        return
    listing = _look_up(wanted)
    if given.dry_run:
        if given.as_json:
            console.emit_json(text.plain(listing))
        else:
            text.table(listing)
        return
    console.info(
        f"{listing.repo} at {listing.commit[:12]}: {len(listing.files)} files, {size(listing.n_bytes)}"
    )
    with console.transfer() as progress:
        path = hub.fetch(listing, given.to, progress)
    if given.as_json:
        console.emit_json({**text.plain(listing), "path": str(path)})
        return
    console.result(str(path))
    if not given.only:
        verb = "serve" if path.suffix.lower() == ".gguf" else "convert"
        console.info(f"next: turbopilot {verb} {shlex.quote(str(path))}")


def _look_up(wanted: HubRequest) -> Listing:
    from turbopilot import hub

    try:
        return hub.look_up(wanted)
    except HubUnreachable as e:
        if here := hub.cached(wanted):
            raise HubUnreachable(e.message, hint=f"all of it is in the cache: {here}") from e
        raise


def _report_cached(wanted: HubRequest, given: DownloadArguments) -> None:
    """Print the model's path in the cache while requests are forbidden.

    Raises:
        HubUnreachable: the model is not in the cache, or a copy in another folder is wanted.
    """
    from turbopilot import hub

    here = hub.cached(wanted)
    if here is None:
        raise HubUnreachable(
            f"{wanted.repo}: HF_HUB_OFFLINE is set, and the cache does not have all of it",
            hint="unset HF_HUB_OFFLINE and run it again",
        )
    if given.to:
        raise HubUnreachable(
            f"{wanted.repo}: HF_HUB_OFFLINE is set; the cache has all of it",
            hint=f"copy it: cp -rL {shlex.quote(str(here))} {shlex.quote(str(given.to))}",
        )
    console.info("offline (HF_HUB_OFFLINE is set): from the cache, no request was sent")
    if given.as_json:
        console.emit_json({"repo": wanted.repo, "path": str(here), "offline": True})
    else:
        console.result(str(here))
