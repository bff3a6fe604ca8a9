"""Next edits: the route of Sweep's plugins, which post the whole file and recent changes.

Source: app.py of PyPI's sweep-autocomplete; src/api of https://github.com/sweepai/vscode-nes; server/client/sweepapi of
https://github.com/cursortab/cursortab.nvim; Sweep's plugin for JetBrains. The plugin for VS Code parses the whole
response as one object, and JetBrains' uses the last line, so the response is one line, with all edits in `completions`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field
from typing_extensions import TypedDict

from serve.api import body
from serve.api.dialect import Dialect, Json, Rendering
from serve.models.completion import Completion
from serve.models.service import CompletionService
from serve.prompt.context_file import ContextFile
from serve.prompt.edit_state import EditState, parse_changes
from serve.request import SamplingParams
from serve.runner.generation import Answer
from serve.settings import Defaults
from serve.text.edits import Edit, find_edits, merged, nearest
from turbopilot.base.errors import InvalidRequest

# Source: AUTOCOMPLETE_OUTPUT_MAX_TOKENS in sweep-autocomplete.
MAX_TOKENS: Final = 1024


class NextEdit(TypedDict):
    """Replacement of the text from `start_index` to `end_index`."""

    start_index: body.Count
    end_index: body.Count
    completion: str
    confidence: body.Share
    autocomplete_id: str


class NextEditAnswer(NextEdit):
    """The first edit, and all edits; both indices are 0 and the completion is "" if there is none.

    Indices count characters of `file_contents`, or bytes in UTF-8 with `use_bytes`. `finish_reason` is "length" if the
    new lines did not fit into `max_tokens` or the context; then there is no edit.
    """

    elapsed_time_ms: body.Count
    finish_reason: str
    completions: list[NextEdit]


class NextEditRendering(Rendering["NextEditRequest"]):
    """Renderer of the edits."""

    def __init__(
        self, request: NextEditRequest, service: CompletionService, *, truncated: bool
    ) -> None:
        super().__init__(request, service, truncated=truncated)
        self._format = service.next_edit
        self._framed = self._format.frame(request.state)

    def whole(self, answer: Answer) -> Json:
        """Return the edits between the lines as they are and as the model rewrote them."""
        (choice,) = answer.choices
        usage, edits = answer.usage, list[Edit]()
        if choice.finish_reason == "stop":
            lines = self._framed.lines
            new = self._format.rewritten(self._framed.prefill + choice.text, lines)
            edits = [
                Edit(lines.start + e.start, lines.start + e.end, e.text)
                for e in find_edits(lines.text, new, lines.cursor)
            ]
        seconds = usage.prompt_seconds + usage.predict_seconds
        return self._request.edited(edits, choice.finish_reason, seconds)


class FilePart(body.Body):
    """Part of another file, or other context under a name."""

    file_path: str = ""
    content: str = ""


FileParts = Annotated[list[FilePart], Field(fail_fast=True)]


class NextEditRequest(Dialect):
    """Sweep's request for the next edit of a file."""

    example: ClassVar[dict[str, Any]] = {
        "file_path": "area.py",
        "file_contents": "def area(width, height):\n    return width * \n",
        "cursor_position": 44,
        "recent_changes": "File: area.py\n@@ -1,1 +1,1 @@\n-def area(width):\n+def area(width, height):\n",
    }
    framing = None
    mimetype = "application/x-ndjson"
    rendering = NextEditRendering
    answer = NextEditAnswer

    file_path: str
    """Name of the edited file."""
    file_contents: str
    """Text of the file."""
    cursor_position: body.Count
    """Offset of the cursor in the file: in UTF-16 code units, or in bytes of UTF-8 with `use_bytes`."""
    recent_changes: str = ""
    """Recent changes, the latest last: lines "File: path", each followed by hunks of a unified diff."""
    original_file_contents: str | None = None
    """Text of the file before the recent changes; by default `file_contents`."""
    file_chunks: FileParts = Field(default=[])
    """Parts of other files, the most important last."""
    retrieval_chunks: FileParts = Field(default=[])
    """Definitions, diagnostics and the like, the most important last."""
    changes_above_cursor: bool = True
    """Whether lines above the cursor may change as well."""
    multiple_suggestions: bool = False
    """Return each edit; otherwise one that contains them all."""
    use_bytes: bool = False
    """Count positions in bytes of UTF-8."""
    ping: bool = False
    """Only check that the server is there."""

    @property
    def cursor(self) -> int:
        """The cursor's offset in characters. Raise InvalidRequest if it is not in the file, or inside a character."""
        coding, size = ("utf-8", 1) if self.use_bytes else ("utf-16-le", 2)
        data = self.file_contents.encode(coding)
        unit = "bytes" if self.use_bytes else "UTF-16 code units"
        if self.cursor_position * size > len(data):
            raise InvalidRequest(
                f"cursor_position must be at most {len(data) // size}, the number of {unit} in file_contents, "
                f"not {self.cursor_position}",
                param="cursor_position",
            )
        try:
            return len(data[: self.cursor_position * size].decode(coding))
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"cursor_position {self.cursor_position} is inside a character ({unit})",
                param="cursor_position",
            ) from None

    @property
    def state(self) -> EditState:
        """The state of the editor."""
        before = self.original_file_contents
        return EditState(
            self.file_path,
            self.file_contents,
            self.cursor,
            self.file_contents if before is None else before,
            parse_changes(self.recent_changes),
            _files(self.file_chunks),
            _files(self.retrieval_chunks),
            self.changes_above_cursor,
        )

    def _asked(self, defaults: Defaults) -> Completion:
        """Return the completion without a prompt; `fitted` adds it."""
        sampling = SamplingParams(temperature=0.0)
        return Completion((), MAX_TOKENS, heals=False, sampling=sampling)

    def at_once(self, service: CompletionService) -> Json | None:
        """Return the response to a ping, or for an empty file. Raise InvalidRequest for a cursor outside the file."""
        none = self.edited([], "stop", 0.0)
        return none if self.ping or not self.file_contents.strip() else None

    def fitted(self, completion: Completion, service: CompletionService) -> Completion:
        """Return the completion with a prompt in the model's next-edit format."""
        form = service.next_edit
        prompt = form.frame(self.state).prompt
        text = prompt if isinstance(prompt, str) else service.chat_prompt(prompt)
        stop = replace(completion.stop, strings=form.stops)
        return replace(completion, prompts=(text,), stop=stop)

    def edited(self, edits: Sequence[Edit], reason: str, seconds: float) -> NextEditAnswer:
        """Return the response with these edits of the file, which are in order.

        Args:
            edits: offsets in characters.
            reason: why the model's output ended.
            seconds: time that the model took.
        """
        name = uuid.uuid4().hex
        chosen = nearest(edits, self.cursor)
        if not self.multiple_suggestions and (one := merged(self.file_contents, edits)):
            chosen = [one]
        found: list[NextEdit] = [
            {
                "start_index": self._index(e.start),
                "end_index": self._index(e.end),
                "completion": e.text,
                "confidence": 1.0,
                "autocomplete_id": f"{name}-{i}",
            }
            for i, e in enumerate(chosen)
        ]
        none: NextEdit = {
            "start_index": 0,
            "end_index": 0,
            "completion": "",
            "confidence": 0.0,
            "autocomplete_id": name,
        }
        return {
            **(found[0] if found else none),
            "elapsed_time_ms": int(1000 * seconds),
            "finish_reason": reason,
            "completions": found,
        }

    def _index(self, offset: int) -> int:
        return len(self.file_contents[:offset].encode()) if self.use_bytes else offset


def _files(parts: list[FilePart]) -> tuple[ContextFile, ...]:
    return tuple(ContextFile(p.file_path, p.content) for p in parts if p.content.strip())
