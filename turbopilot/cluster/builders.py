"""Application builders of Ray Serve, for its configuration files: KubeRay's RayService, and `serve deploy`.

`turbopilot cluster deploy` does the same without a file. Source of the form: docs.ray.io, "Serve Config Files" and
"Passing Arguments to Applications".
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from turbopilot.base.errors import InvalidInput, did_you_mean
from turbopilot.cluster.application import engine_application, front_application
from turbopilot.cluster.roles import DEFAULT_NAME, ClusterPlan, Door, Role, Size
from turbopilot.cluster.settings import make_settings

T = TypeVar("T", Size, Door)

log = logging.getLogger("turbopilot.cluster")


def engines(args: dict[str, Any]) -> Any:
    """Return the application of the engines.

    Args:
        args: `model` as MODEL of `turbopilot serve`, `options` as in its TOML file, and the fields of `Size`.

    Raises:
        InvalidInput: an argument is unknown, or has an invalid value.
    """
    given = dict(args)
    model, options = given.pop("model", ""), given.pop("options", {})
    size = _read(Size, given)
    named = {name.replace("-", "_"): value for name, value in options.items()}
    settings = make_settings(model, named, size, log.warning)
    role = Role(settings, revision=time.time_ns(), key=secrets.token_urlsafe(32))
    return engine_application(ClusterPlan(role, size), surges=bool(size.surge))


def front(args: dict[str, Any]) -> Any:
    """Return the application of the fronts.

    Args:
        args: `application`, the name of the engines' application, and the fields of `Door`.

    Raises:
        InvalidInput: an argument is unknown.
    """
    given = dict(args)
    name = given.pop("application", DEFAULT_NAME)
    return front_application(ClusterPlan(Role({}, 0), door=_read(Door, given), name=name))


def _read(kind: type[T], given: Mapping[str, Any]) -> T:
    known = [f.name for f in fields(kind)]
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known, f"the arguments are {', '.join(known)}")
            raise InvalidInput(f"{name}: unknown argument", hint=hint)
    return kind(**given)
