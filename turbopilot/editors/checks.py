"""Sample request of each plugin, with which the server's page checks a set-up.

The bodies have the fields of the requests that our tests replay (tests/data/editor_requests.jsonl), with a short text
and few tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from turbopilot.editors import Editor
from turbopilot.editors.template import family_of

PREFIX: Final = "def area(width, height):\n    return"
SUFFIX: Final = "\n\nprint(area(2, 3))\n"
MAX_TOKENS: Final = 32


@dataclass(frozen=True, slots=True)
class Check:
    """A plugin's POST request: its path and its JSON body."""

    path: str
    body: dict[str, Any]

    @property
    def streams(self) -> bool:
        """Whether the plugin reads the answer as a stream."""
        return bool(self.body.get("stream"))


def check_of(editor: Editor, model: str) -> Check:
    """Return a request as the plugin would send it, if the model's name in its settings is `model`.

    >>> from turbopilot.editors import find
    >>> check_of(find("fauxpilot")[0], "codegen").path
    '/v1/engines/codegen/completions'
    """
    path = editor.route.split()[0].replace("*", quote(model))
    body = _BODIES.get(editor.name, _BODIES.get(editor.route, _completion))
    return Check(path, body(editor, model))


def _completion(editor: Editor, model: str) -> dict[str, Any]:
    """Return a request in OpenAI's format."""
    texts = {"prompt": PREFIX}
    if editor.fim == "apart":
        texts["suffix"] = SUFFIX
    elif editor.fim == "tokens":
        f = family_of(model)
        texts["prompt"] = f"{f.prefix}{PREFIX}{f.suffix}{SUFFIX}{f.middle}"
    options = {"max_tokens": MAX_TOKENS, "temperature": 0.2, "stream": editor.stream}
    return {"model": model, **texts, **options}


def _infill(_editor: Editor, model: str) -> dict[str, Any]:
    prefix, _, line = PREFIX.rpartition("\n")
    return {
        "model": model, "input_prefix": f"{prefix}\n", "prompt": line, "input_suffix": SUFFIX, "input_extra": [],
        "n_predict": MAX_TOKENS, "n_indent": 4, "top_k": 40, "top_p": 0.9, "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True, "t_max_prompt_ms": 500, "t_max_predict_ms": 1000, "stream": False,
    }  # fmt: skip


def _segments(_editor: Editor, _model: str) -> dict[str, Any]:
    return {"language": "python", "segments": {"prefix": PREFIX, "suffix": SUFFIX}}


def _ollama(_editor: Editor, model: str) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": PREFIX,
        "stream": False,
        "options": {"num_predict": MAX_TOKENS},
    }


def _sweep(_editor: Editor, _model: str) -> dict[str, Any]:
    before, after = "def area(width):\n", "def area(width, height):\n"
    return {
        "file_path": "area.py", "file_contents": PREFIX + SUFFIX, "cursor_position": len(PREFIX),
        "recent_changes": f"File: area.py\n@@ -1,1 +1,1 @@\n-{before}+{after}",
    }  # fmt: skip


def _zeta_2(_editor: Editor, model: str) -> dict[str, Any]:
    """Return a request of cursortab.nvim with `type = "zeta-2"`."""
    prompt = (
        f"<[fim-suffix]>{SUFFIX}<[fim-prefix]><filename>area.py\n"
        f"<<<<<<< CURRENT\n{PREFIX}<|user_cursor|>\n=======\n<[fim-middle]>"
    )
    options = {"temperature": 0, "max_tokens": 256, "stop": [">>>>>>> UPDATED\n"], "n": 1}
    return {"model": model, "prompt": prompt, **options, "stream": False}


# By route, or by the name of a plugin that sends a format of its own to a common route.
_BODIES: Final[dict[str, Callable[[Editor, str], dict[str, Any]]]] = {
    "/infill": _infill,
    "/v1/completions (segments)": _segments,
    "/api/generate": _ollama,
    "/backend/next_edit_autocomplete": _sweep,
    "cursortab": _zeta_2,
}
