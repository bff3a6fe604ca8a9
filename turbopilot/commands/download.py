"""`turbopilot download`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from turbopilot import console


def download(
    model: Annotated[str, typer.Argument(help="Repository on the Hugging Face Hub: owner/name.")],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit. Default: main.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder to put it in. Default: the hub's own cache.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files and sizes, fetch nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
) -> None:
    """Fetch a checkpoint from the Hugging Face Hub.

    Takes only what conversion needs: config, tokenizer and weights, safetensors before pickles, never code.
    Run it again after an interruption: it goes on where it stopped.

    Example: turbopilot download Salesforce/codegen-350M-mono --to codegen-350M-mono
    """
    from turbopilot import hub

    listing = hub.look_up(model, revision)
    files = [{"name": f.name, "bytes": f.n_bytes} for f in listing.files]
    if dry_run:
        if as_json:
            console.emit_json(
                {
                    "repo": listing.repo,
                    "commit": listing.commit,
                    "files": files,
                    "bytes": listing.n_bytes,
                }
            )
        else:
            rows = [[f.name, console.size(f.n_bytes)] for f in listing.files]
            console.table(f"{listing.repo} at {listing.commit[:12]}", ["file", "size"], rows)
            console.result(f"{len(rows)} files, {console.size(listing.n_bytes)}")
        return
    console.info(
        f"{listing.repo} at {listing.commit[:12]}: {len(listing.files)} files, {console.size(listing.n_bytes)}"
    )
    console.quiet_hub_bars()
    folder = hub.fetch(listing, to)
    if as_json:
        console.emit_json(
            {
                "repo": listing.repo,
                "commit": listing.commit,
                "path": str(folder),
                "files": files,
                "bytes": listing.n_bytes,
            }
        )
        return
    console.result(str(folder))
    console.info(f"next: turbopilot convert {folder}")
