"""Output of `turbopilot download`: the files of a repository, as a table or JSON."""

from __future__ import annotations

from turbopilot.base.counts import count
from turbopilot.base.sizes import size
from turbopilot.hub import Listing
from turbopilot.render import console
from turbopilot.render.table import TableColumns


def plain(listing: Listing) -> dict[str, object]:
    """Return a listing for JSON."""
    files = [{"name": f.name, "bytes": f.n_bytes} for f in listing.files]
    return {
        "repo": listing.repo, "revision": listing.revision, "commit": listing.commit,
        "files": files, "bytes": listing.n_bytes,
    }  # fmt: skip


def table(listing: Listing) -> None:
    """Print the files with their sizes."""
    rows = [[f.name, size(f.n_bytes)] for f in listing.files]
    console.table(f"{listing.repo} at {listing.commit[:12]}", TableColumns(("file", "size")), rows)
    console.result(f"{count(len(rows), 'file')}, {size(listing.n_bytes)}")
