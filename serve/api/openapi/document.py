"""The chapters put together as one OpenAPI document. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serve.api.openapi import chat, generate, llama_cpp, openai, others
from serve.api.openapi.operation import ERRORS, Chapter
from serve.settings import MAX_BODY_BYTES, Defaults
from turbopilot.base.version import __version__

_ABOUT: Final = f"""Code completions from a model on this machine, in the dialects that editors speak.

- A field that nobody knows is ignored, null is absent, and any model name will do. A field of the wrong type or out \
of its range is refused with status 400, by its name.
- A body is JSON in UTF-8 of less than {MAX_BODY_BYTES // 2**20} MiB, whatever its Content-Type says.
- A prompt that is too long loses what is farthest from the cursor, and an answer ends where the context does; both \
are told, and are no errors.
- A client that closes its connection ends what it asked for.
- Pieces of a stream are described by `x-itemSchema`; one that breaks off ends with an error as its last piece."""


def description(defaults: Defaults) -> dict[str, object]:
    """What `GET /openapi.json` tells.

    Args:
        defaults: for fields that a request does not give.
    """
    chapters = list(_chapters(defaults))
    schemas = dict(ERRORS)
    for chapter in chapters:
        schemas |= chapter.schemas
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "TurboPilot",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "tags": [{"name": c.tag, "description": c.about} for c in chapters],
        "security": [{}, {"key": []}],
        "paths": {
            path: {method: {"tags": [c.tag], **operation} for method, operation in methods.items()}
            for c in chapters
            for path, methods in c.paths.items()
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Wanted only where the server was started with keys.",
                }
            },
        },
    }


def _chapters(defaults: Defaults) -> Iterator[Chapter]:
    for dialect in (openai, chat, llama_cpp, generate):
        yield dialect.chapter(defaults)
    yield from others.chapters()
