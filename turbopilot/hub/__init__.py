"""Fetch models from the Hugging Face Hub: only what is needed, never code. Knows nothing of what the files hold.

names.parse ─▶ Wanted ─▶ listing.look_up ─▶ Listing ─▶ transfer.fetch ─▶ a folder or a file
                                cache.cached ─▶ the same, of what is here already
"""

from turbopilot.hub.cache import cached, is_offline
from turbopilot.hub.choice import choose_files
from turbopilot.hub.listing import Listing, RemoteFile, look_up
from turbopilot.hub.names import REPO_ID, KnownModel, Wanted, parse
from turbopilot.hub.transfer import NOTE, fetch

__all__ = [
    "NOTE", "REPO_ID", "KnownModel", "Listing", "RemoteFile", "Wanted",
    "cached", "choose_files", "fetch", "is_offline", "look_up", "parse",
]  # fmt: skip
