"""Downloads from the Hugging Face Hub: only the files that a model needs, and never code.

names.parse ─▶ HubRequest ─▶ listing.look_up ─▶ Listing ─▶ transfer.fetch ─▶ a folder or a file
                  └────▶ cache.cached ─▶ the same folder or file, without requests
"""

from turbopilot.hub.cache import cached, hub_cache, is_offline
from turbopilot.hub.listing import Listing, look_up
from turbopilot.hub.names import HubRequest, parse
from turbopilot.hub.reach import endpoint, proxy_of, request_status
from turbopilot.hub.repository import RemoteFile
from turbopilot.hub.transfer import NOTE, fetch

__all__ = [
    "NOTE", "HubRequest", "Listing", "RemoteFile", "cached", "endpoint", "fetch", "hub_cache", "is_offline", "look_up",
    "parse", "proxy_of", "request_status",
]  # fmt: skip
