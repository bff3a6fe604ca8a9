"""The options of `turbopilot serve` that say who may ask, and what the log tells: their words, and their reading."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from serve.http.log_format import LOG_FORMATS
from serve.settings import SecurityOptions
from turbopilot.base.errors import InvalidInput

KEY_VARIABLE = "TURBOPILOT_API_KEY"
# More is no list of keys.
MAX_KEY_FILE_BYTES = 2**20

ApiKey = Annotated[
    list[str] | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help="Ask every request for this key (Authorization: Bearer KEY); again for more keys. Others on this machine "
        f"can read it in the list of processes: --api-key-file or the variable {KEY_VARIABLE} is safer.",
        show_default=False,
    ),
]

ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        metavar="FILE",
        help="Ask every request for one of the keys in this file: one a line; lines that begin with # are comments.",
        show_default=False,
    ),
]

CorsOrigin = Annotated[
    list[str] | None,
    typer.Option(
        "--cors-origin",
        metavar="ORIGIN",
        help="Let this web page use the server from a browser, as https://chat.example.com; again for more. Without "
        "it no page can, but the server's own. * is every page, and wants an API key.",
        show_default=False,
    ),
]

AllowedHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        metavar="NAME",
        help="A further name under which the server is reached, as behind a proxy; again for more. Other names are "
        "refused, lest a web page passes off its own name as this machine. * is any name.",
        show_default=False,
    ),
]

CopilotRequestId = Annotated[
    bool,
    typer.Option(
        "--copilot-request-id/--no-copilot-request-id",
        help="Answer Copilot's question for a token with an x-github-request-id header, which GitHub's servers send "
        "and the newest Copilot language server takes as their sign: it then accepts the token of this server.",
    ),
]

LogFormatOption = Annotated[
    str,
    typer.Option(
        "--log-format",
        help=f"How the log on stderr looks ({', '.join(LOG_FORMATS)}): json is one object a line, for collectors.",
    ),
]

LogPrompts = Annotated[
    bool,
    typer.Option(
        "--log-prompts/--no-log-prompts",
        help="Log what is asked and answered, in full: whoever reads the log reads your code. Keys are never logged.",
    ),
]


def security_options(
    *,
    keys: Iterable[str],
    key_file: Path | None,
    cors_origins: Iterable[str],
    allowed_hosts: Iterable[str],
    copilot_request_id: bool,
    warn: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> SecurityOptions:
    """Who may ask.

    Args:
        keys: of `--api-key`.
        key_file: of `--api-key-file`.
        cors_origins: of `--cors-origin`.
        allowed_hosts: of `--allowed-host`.
        copilot_request_id: of the option of that name.
        warn: gets a line for a person, where others can read the keys.
        environ: may hold a key in KEY_VARIABLE.

    Raises:
        InvalidInput: a key is empty, or an option is not what it should be.
    """
    from serve.http.security.hosts import check_name
    from serve.http.security.keys import check_key
    from serve.http.security.origins import check_origins

    found = [check_key(key, "--api-key") for key in keys]
    if key_file:
        found += read_key_file(key_file, warn)
    if (
        KEY_VARIABLE in environ
    ):  # empty, it is a mistake in some script, and no wish to let everybody in
        found.append(check_key(environ[KEY_VARIABLE], KEY_VARIABLE))
    return SecurityOptions(
        api_keys=tuple(dict.fromkeys(found)),
        cors_origins=check_origins(cors_origins, has_keys=bool(found)),
        allowed_hosts=tuple(map(check_name, allowed_hosts)),
        copilot_request_id=copilot_request_id,
    )


def read_key_file(path: Path, warn: Callable[[str], None]) -> list[str]:
    """The keys in a file, at least one.

    Raises:
        InvalidInput: it cannot be read, or holds none or what is no key.
    """
    from serve.http.security.keys import check_key

    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEY_FILE_BYTES + 1)
        text = data.decode()
    except OSError as e:
        raise InvalidInput(
            f"--api-key-file {path}: {e.strerror or e}", hint="give a file that you can read"
        ) from None
    except UnicodeDecodeError:
        raise InvalidInput(f"--api-key-file {path}: no text", hint="one key a line") from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise InvalidInput(
            f"--api-key-file {path}: too large for a list of keys", hint="one key a line"
        )
    lines = ((n, line.strip()) for n, line in enumerate(text.splitlines(), 1))
    keys = [
        check_key(line, f"{path}, line {n}")
        for n, line in lines
        if line and not line.startswith("#")
    ]
    if not keys:
        raise InvalidInput(
            f"--api-key-file {path}: no key in it, which would let everybody in",
            hint=f"openssl rand -hex 24 > {path}",
        )
    # A warning: where containers get their secrets from, files are often like that.
    if os.name == "posix" and mode & (stat.S_IRGRP | stat.S_IROTH):
        warn(f"warning  {path}: other users of this machine can read the keys; chmod 600 {path}")
    return keys
