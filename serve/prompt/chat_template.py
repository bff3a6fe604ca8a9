"""From messages to the prompt that a model was trained on. Knows nothing of HTTP, threads or llama.cpp.

A template is a program from a file that somebody downloaded. It runs in Jinja's sandbox, which lets it read the
messages and nothing else; for how long it runs is not bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from turbopilot.base.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Message:
    """Who said what."""

    role: str
    content: str


class ChatTemplate:
    """A model's own, as its file carries it.

    Args:
        source: in Jinja.
        bos: the text of the token that documents begin with, and
        eos: of the one that they end with; "" where there is none.

    Raises:
        InvalidRequest: the template is broken. The file is at fault, and every chat with it is refused.
    """

    def __init__(self, source: str, *, bos: str = "", eos: str = "") -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        self._tokens = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = environment.from_string(source)
        except TemplateError as e:
            raise InvalidRequest(f"the model's chat template is broken: {e}") from None

    def prompt(self, messages: Sequence[Message]) -> str:
        """The prompt, up to where the assistant begins to speak.

        Raises:
            InvalidRequest: the template refuses the messages, as some do a second system message.
        """
        try:
            return self._template.render(
                messages=[asdict(m) for m in messages], add_generation_prompt=True, **self._tokens
            )
        except (TemplateError, SecurityError, TypeError, ValueError, OverflowError) as e:
            raise InvalidRequest(
                f"the model's chat template refuses the messages: {e}", param="messages"
            ) from None


def _refuse(reason: str) -> NoReturn:
    raise TemplateError(reason)
