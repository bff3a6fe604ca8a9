"""Check of an answer of `/status` or `/status/stream` that another process has sent."""

from __future__ import annotations

import json
from typing import Final

from pydantic import TypeAdapter, ValidationError

from serve.api.status import StatusAnswer

_ADAPTER: Final = TypeAdapter(StatusAnswer)


def read_status(data: bytes) -> StatusAnswer:
    """Return an answer of `/status`; fields that are unknown here are left out.

    Raises:
        ValueError: it is not such an answer; the text names the first fault.
    """
    try:
        found = _ADAPTER.validate_json(data)
    except ValidationError as e:
        fault = e.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise ValueError(f"{place}: {fault['msg']}" if place else fault["msg"]) from None
    json.dumps(found, allow_nan=False)  # raises ValueError if a number is infinite
    return found
