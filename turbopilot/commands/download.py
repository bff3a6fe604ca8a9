"""The `turbopilot download` command."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbopilot.base.counts import count
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
        help="Model name (see turbopilot models), owner/name, owner/name:Q4_K_M, owner/name/FILE.gguf, or the URL of "
        "a page on the Hub.",
    )]
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: main.")] = None
    to: Annotated[Path | None, typer.Option(help="Folder to download to. Default: the Hub's cache.")] = None
    quant: Annotated[str, typer.Option(help="Download the GGUF file of this type; Q4_K_M is the same as :Q4_K_M.")] = ""
    only: Annotated[str, typer.Option(help="Set to tokenizer to download only the config and the tokenizer.")] = ""
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and sizes; download nothing.")] = False
    as_json: AsJson = False
# fmt: on


@takes(DownloadArguments)
def download(given: DownloadArguments) -> None:
    """Download a checkpoint or a GGUF file from the Hugging Face Hub.

    Of a checkpoint, only the config, the tokenizer and the weights are downloaded: safetensors if there are any,
    else pickles, and never code. To resume an interrupted download, run the same command again.

    For gated models, set HF_TOKEN or run `hf auth login`. HF_ENDPOINT sets a mirror, HTTPS_PROXY a proxy. With
    HF_HUB_OFFLINE=1, the path in the cache is printed and no request is sent.

    Example: turbopilot download codegen-350M-mono

    Example: turbopilot download Salesforce/codegen-350M-mono --to ./codegen

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
        f"{listing.repo} at {listing.commit[:12]}: {count(len(listing.files), 'file')}, "
        f"{size(listing.n_bytes)}"
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
            raise HubUnreachable(
                e.message, hint=f"the model is complete in the cache: {here}"
            ) from e
        raise


def _report_cached(wanted: HubRequest, given: DownloadArguments) -> None:
    """Print the model's path in the cache, in offline mode.

    Raises:
        HubUnreachable: the model is not in the cache, or `--to` is given.
    """
    from turbopilot import hub

    here = hub.cached(wanted)
    if here is None:
        raise HubUnreachable(
            f"{wanted.repo}: HF_HUB_OFFLINE is set, and the model is not complete in the cache",
            hint="unset HF_HUB_OFFLINE and run the command again",
        )
    if given.to:
        raise HubUnreachable(
            f"{wanted.repo}: HF_HUB_OFFLINE is set, but the model is complete in the cache",
            hint=f"copy it: cp -rL {shlex.quote(str(here))} {shlex.quote(str(given.to))}",
        )
    console.info("offline (HF_HUB_OFFLINE is set): using the cache, no request was sent")
    if given.as_json:
        console.emit_json({"repo": wanted.repo, "path": str(here), "offline": True})
    else:
        console.result(str(here))
