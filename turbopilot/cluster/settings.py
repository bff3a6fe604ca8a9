"""The options of a replica's server, checked by the deploying machine and read again on each node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any, Final

from serve.http.security import checked_options
from serve.model_choice import ModelChoice
from serve.options import read_settings
from serve.settings import ServerOptions
from serve.shown_options import shown_options
from serve.upstream.address import EngineAddress
from turbopilot.app.resolve import DEMO
from turbopilot.app.served_models import with_models
from turbopilot.base.errors import InvalidInput
from turbopilot.base.progress import Reporter
from turbopilot.cluster.roles import Role, Size

# Options that the cluster decides for each replica.
_OURS: Final = {
    "host": "give --host to turbopilot cluster deploy",
    "port": "give --port to turbopilot cluster deploy",
    "upstream": "its engines are the upstreams",
    "models": "deploy each model under its own --name and --port",
}


def make_settings(
    model: str, given: Mapping[str, Any], size: Size, warn: Callable[[str], None]
) -> dict[str, Any]:
    """Return the settings of a role.

    Args:
        model: MODEL of the command line; "" means that of `given`, or the bundled model.
        given: options of `serve` by the names of its parameters, from a TOML file.
        size: an engine uses as many threads as its processors, unless `given` sets them.
        warn: called with warnings.

    Raises:
        InvalidInput: an option cannot be used.
    """
    for name, hint in _OURS.items():
        if name in given:
            raise InvalidInput(f"--config: {name} cannot be set for a cluster", hint=hint)
    settings = {"threads": max(1, ceil(size.num_cpus)), **given}
    chosen = model or settings.get("model") or settings.pop("model_file", None) or DEMO
    file = Path(chosen).expanduser()
    settings["model"] = str(file.resolve()) if chosen != DEMO and file.exists() else chosen
    read_settings(ModelChoice, settings)
    options = read_settings(ServerOptions, settings, model_file=Path())
    # Key files are read here, where they are; the environment's key counts too.
    keys = checked_options(options.security, warn).api_keys
    settings.pop("api_key_file", None)
    return {**settings, "api_key": list(keys)} if keys else settings


def read_role(role: Role, engines: Sequence[str] | None = None) -> ServerOptions:
    """Return the options, with the file on this node; it is downloaded or converted if needed.

    Args:
        role: what is served.
        engines: URLs of the engines, for a front, which needs only the tokenizer; None for an engine.

    Raises:
        InvalidInput: an option cannot be used, or the file is not on this node.
    """
    shown = shown_options(role.settings, ModelChoice, ServerOptions)
    options = read_settings(ServerOptions, role.settings, model_file=Path(), shown=shown)
    security = checked_options(options.security, lambda _: None, environ={})
    options = replace(options, security=security)
    choice = read_settings(ModelChoice, role.settings)
    if engines is not None:
        addresses = tuple(map(EngineAddress.parse, engines))
        upstream = replace(options.upstream, addresses=addresses, key=role.key)
        options = replace(options, upstream=upstream)
        choice = replace(choice, draft=None, lora=())
    return with_models(options, choice, Reporter())
