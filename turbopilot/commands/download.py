"""`turbopilot download`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbopilot.base.errors import HubUnreachable
from turbopilot.base.sizes import size
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.hub import HubRequest


def download(
    model: Annotated[
        str,
        typer.Argument(
            help="An alias, owner/name, owner/name:Q4_K_M, owner/name/FILE.gguf, or the address of a page of the Hub."
        ),
    ],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit. Default: main.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder to put it in. Default: the hub's own cache.")
    ] = None,
    quant: Annotated[
        str, typer.Option(help="Type of a ready GGUF file: Q4_K_M and so on, as after the colon.")
    ] = "",
    only: Annotated[
        str, typer.Option(help="tokenizer: config and tokenizer alone, without the weights.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files and sizes, fetch nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
) -> None:
    """Fetch a checkpoint, or a ready GGUF file, from the Hugging Face Hub.

    Takes only what is needed: of a checkpoint config, tokenizer and weights, safetensors before pickles, never
    code. Run it again after an interruption: it goes on where it stopped.

    HF_TOKEN or `hf auth login` opens gated models; HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy;
    with HF_HUB_OFFLINE=1 it says where the model is in the cache.

    Example: turbopilot download Salesforce/codegen-350M-mono --to codegen-350M-mono

    Example: turbopilot download owner/name-GGUF:Q4_K_M
    """
    from turbopilot import hub
    from turbopilot.app.resolve import parse_name
    from turbopilot.render import download as text

    wanted = replace(parse_name(model, quant=quant, revision=revision), only=only)
    if hub.is_offline():
        _report_cached(wanted, to, as_json=as_json)
        return
    try:
        listing = hub.look_up(wanted)
    except HubUnreachable as e:
        if here := hub.cached(wanted):
            raise HubUnreachable(e.message, hint=f"all of it is in the cache: {here}") from e
        raise
    if dry_run:
        if as_json:
            console.emit_json(text.plain(listing))
        else:
            text.table(listing)
        return
    console.info(
        f"{listing.repo} at {listing.commit[:12]}: {len(listing.files)} files, {size(listing.n_bytes)}"
    )
    with console.transfer() as progress:
        path = hub.fetch(listing, to, progress)
    if as_json:
        console.emit_json({**text.plain(listing), "path": str(path)})
        return
    console.result(str(path))
    if not only:
        verb = "serve" if path.suffix.lower() == ".gguf" else "convert"
        console.info(f"next: turbopilot {verb} {shlex.quote(str(path))}")


def _report_cached(wanted: HubRequest, to: Path | None, *, as_json: bool) -> None:
    """Print where the cache has the model, as nothing may be fetched.

    Raises:
        HubUnreachable: it has not, or the model is wanted elsewhere.
    """
    from turbopilot import hub

    here = hub.cached(wanted)
    if here is None:
        raise HubUnreachable(
            f"{wanted.repo}: HF_HUB_OFFLINE is set, and the cache does not have all of it",
            hint="unset HF_HUB_OFFLINE and run it again",
        )
    if to:
        raise HubUnreachable(
            f"{wanted.repo}: HF_HUB_OFFLINE is set; the cache has all of it",
            hint=f"copy it: cp -rL {shlex.quote(str(here))} {shlex.quote(str(to))}",
        )
    console.info("offline (HF_HUB_OFFLINE is set): from the cache, nothing was asked of the hub")
    if as_json:
        console.emit_json({"repo": wanted.repo, "path": str(here), "offline": True})
        return
    console.result(str(here))
