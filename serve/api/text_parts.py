"""Texts that OpenAI's API takes as a string or as a list of parts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serve.api import body


class TextPart(body.Body):
    """A text part of a message."""

    type: Literal["text"]
    text: str = ""


TextParts = Annotated[list[TextPart], Field(fail_fast=True)]
Text = Annotated[
    str | TextParts,
    body.Alternatives("a string or a list of text parts: images and audio are not supported"),
]


class PredictedPart(body.Body):
    """A part of a prediction; its type is not used."""

    text: str = ""


class Prediction(body.Body):
    """A text that the completion is expected to repeat in large parts."""

    content: Annotated[
        str | Annotated[list[PredictedPart], Field(fail_fast=True)],
        body.Alternatives("a string or a list of text parts"),
    ] = ""


def joined(text: str | list[TextPart] | list[PredictedPart]) -> str:
    """Return the whole text."""
    return text if isinstance(text, str) else "".join(part.text for part in text)
