"""llama.cpp's routes `/tokenize`, `/detokenize` and `/apply-template`: a model's vocabulary and chat template.

llama.vscode (src/llama-server.ts) measures a chat with them: it formats the messages, and counts the prompt's tokens.

Source: the routes in llama.cpp's tools/server/server-context.cpp.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from pydantic import Field
from typing_extensions import TypedDict

from serve.api.body import Body, Count, TokenIds
from serve.api.chat import Messages
from serve.api.dialect import Json, ModelName
from serve.models.service import CompletionService
from turbopilot.base.errors import InvalidRequest

# Maximum characters and token ids in one request. The slowest text of this length, of names of special tokens alone,
# takes 0.8 s; the time grows with the square of their number.
MAX_TEXT: Final = 2**18
MAX_TOKENS: Final = 2**18


class ModelRequest(Body):
    """A request that needs a loaded model, but no computation by it.

    Attributes:
        example: example of a request body.
    """

    example: ClassVar[dict[str, Any]]

    model: ModelName = ""
    """Name of the model; an unknown name means the default model, as in completion requests."""

    def answer_of(self, service: CompletionService) -> Json:
        """Return the response."""
        raise NotImplementedError


class TokenPiece(TypedDict):
    """A token and its text; a list of bytes if it is only a part of a character."""

    id: Count
    piece: str | list[Annotated[int, Field(ge=0, le=255)]]


class TokensAnswer(TypedDict):
    """Token ids, or with `with_pieces` objects."""

    tokens: list[Count] | list[TokenPiece]


class TokenizeRequest(ModelRequest):
    """A text to tokenize."""

    example: ClassVar[dict[str, Any]] = {"content": "def add(a, b):", "with_pieces": True}

    content: Annotated[str, Field(max_length=MAX_TEXT)]
    """The text."""
    add_special: bool = False
    """Begin with the begin-of-sequence token if the model's prompts do."""
    parse_special: bool = True
    """Read the names of special tokens as these tokens, not as text."""
    with_pieces: bool = False
    """Return each token's id and text instead of the id alone."""

    def answer_of(self, service: CompletionService) -> Json:
        """Return the tokens."""
        tokens = service.tokens(
            self.content, add_start=self.add_special, parse_special=self.parse_special
        )
        if not self.with_pieces:
            return {"tokens": tokens}
        return {"tokens": [{"id": t, "piece": _piece(service.named_piece(t))} for t in tokens]}


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


class DetokenizeAnswer(TypedDict):
    """The text of the tokens. Bytes that are not UTF-8 become "\N{REPLACEMENT CHARACTER}"."""

    content: str


class DetokenizeRequest(ModelRequest):
    """Tokens to return as text."""

    example: ClassVar[dict[str, Any]] = {"tokens": [97, 98]}

    tokens: Annotated[TokenIds, Field(max_length=MAX_TOKENS)]
    """Token ids; those of special tokens become their names."""

    def answer_of(self, service: CompletionService) -> Json:
        """Return the text; raise InvalidRequest if the model has no such token."""
        n_vocab = service.model.n_vocab
        if unknown := [t for t in self.tokens if t >= n_vocab]:
            raise InvalidRequest(
                f"tokens must be below {n_vocab}, not {unknown[0]}: the model has no such token",
                param="tokens",
            )
        return {"content": b"".join(map(service.named_piece, self.tokens)).decode(errors="replace")}


class TemplateAnswer(TypedDict):
    """The prompt of a chat."""

    prompt: str


class ApplyTemplateRequest(ModelRequest):
    """Messages to format as a prompt, as `/v1/chat/completions` does before it generates."""

    example: ClassVar[dict[str, Any]] = {"messages": [{"role": "user", "content": "Say hello."}]}

    messages: Messages
    """The conversation. The model's chat template may reject some orders of roles."""

    def answer_of(self, service: CompletionService) -> Json:
        """Return the prompt; raise InvalidRequest if the model has no chat template."""
        return {"prompt": service.chat_prompt([m.message() for m in self.messages])}
