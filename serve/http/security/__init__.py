"""Access control by host name (hosts), web page (origins) and API key (keys)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from serve.http.security.hosts import check_name
from serve.http.security.keys import check_key, read_key_file
from serve.http.security.origins import check_origins
from serve.security_options import KEY_VARIABLE, SecurityOptions


def checked_options(
    options: SecurityOptions,
    warn: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> SecurityOptions:
    """Return the options with validated values and the keys of all sources.

    Args:
        options: options as given by the user.
        warn: called with a warning if other users can read the key file.
        environ: environment, which may have a key in KEY_VARIABLE.

    Raises:
        InvalidInput: a key is empty, or a value is invalid.
    """
    keys = [check_key(key, "--api-key") for key in options.api_keys]
    if options.api_key_file:
        keys += read_key_file(options.api_key_file, warn)
    if KEY_VARIABLE in environ:  # an empty key is an error: it is probably a mistake in a script
        keys.append(check_key(environ[KEY_VARIABLE], KEY_VARIABLE))
    return replace(
        options,
        api_keys=tuple(dict.fromkeys(keys)),
        cors_origins=check_origins(options.cors_origins, has_keys=bool(keys)),
        allowed_hosts=tuple(map(check_name, options.allowed_hosts)),
        api_key_file=None,
    )
