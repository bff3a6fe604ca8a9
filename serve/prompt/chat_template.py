"""Chat templates: from messages to the prompt format that a model was trained on.

A template is a program in a downloaded file. It runs in Jinja's sandbox and can read only the messages; its run time is
not limited.
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
    """One turn of a chat."""

    role: str
    content: str


class ChatTemplate:
    """Chat template of a model file.

    Args:
        source: the Jinja template.
        bos, eos: text of the begin-of-sequence and end-of-sequence tokens, or "".

    Raises:
        InvalidRequest: the template is invalid.
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
            raise InvalidRequest(f"the model's chat template is invalid: {e}") from None

    def prompt(self, messages: Sequence[Message]) -> str:
        """Return the prompt, up to the beginning of the assistant's answer.

        Raises:
            InvalidRequest: the template rejects the messages, such as a second system message.
        """
        try:
            return self._template.render(
                messages=[asdict(m) for m in messages], add_generation_prompt=True, **self._tokens
            )
        except (TemplateError, SecurityError, TypeError, ValueError, OverflowError) as e:
            raise InvalidRequest(
                f"the model's chat template rejects the messages: {e}", param="messages"
            ) from None


def _refuse(reason: str) -> NoReturn:
    raise TemplateError(reason)
