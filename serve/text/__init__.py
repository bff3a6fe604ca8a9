"""Token bytes → certain text, and where it ends."""

from serve.text.stream import TextStream

__all__ = ["TextStream"]
