"""Who may use the server: the host names it answers to (hosts), web pages (origins), API keys (keys)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from serve.http.security.hosts import check_name
from serve.http.security.keys import KEY_VARIABLE, check_key, read_key_file
from serve.http.security.origins import check_origins
from serve.settings import SecurityOptions


def checked_options(
    options: SecurityOptions,
    warn: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> SecurityOptions:
    """Return the options as requests are compared with them, with the keys of all sources.

    Args:
        options: as they were given.
        warn: gets a line if others can read the file of keys.
        environ: may hold a key in KEY_VARIABLE.

    Raises:
        InvalidInput: a key is empty, or a value cannot be used.
    """
    keys = [check_key(key, "--api-key") for key in options.api_keys]
    if options.api_key_file:
        keys += read_key_file(options.api_key_file, warn)
    if (
        KEY_VARIABLE in environ
    ):  # if empty, it is a mistake in a script, not a wish to admit everybody
        keys.append(check_key(environ[KEY_VARIABLE], KEY_VARIABLE))
    return replace(
        options,
        api_keys=tuple(dict.fromkeys(keys)),
        cors_origins=check_origins(options.cors_origins, has_keys=bool(keys)),
        allowed_hosts=tuple(map(check_name, options.allowed_hosts)),
        api_key_file=None,
    )
