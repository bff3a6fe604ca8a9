"""Lines that `serve` prints when the server is ready."""

from __future__ import annotations

from serve.security_options import KEY_VARIABLE


def how_to_use(
    host: str, port: int, *, needs_key: bool = False, has_page: bool = True
) -> list[str]:
    """Return lines with the server's URL, its page and an example request. An API key is referenced, never shown."""
    if host in ("0.0.0.0", "::"):  # listens on all addresses; loopback works on this machine
        host = "127.0.0.1"
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    key = f'-H "Authorization: Bearer ${KEY_VARIABLE}" ' if needs_key else ""
    return [
        f"ready    {url}  (press Ctrl-C to stop)",
        *([f"page     {url}/"] if has_page else []),
        "try      "
        f"curl -s {url}/v1/completions {key}-d "
        """'{"prompt": "def fibonacci(n):", "max_tokens": 48}'""",
    ]


def open_to_strangers(host: str) -> str:
    """Return a warning that other machines can use the server without an API key."""
    return (
        f"warning  --host {host} without an API key: everyone who can reach this machine can use the server; "
        "require a key with --api-key-file FILE"
    )
