"""Conversion of token bytes to text, and rules that end a completion."""

from serve.text.stream import TextStream

__all__ = ["TextStream"]
