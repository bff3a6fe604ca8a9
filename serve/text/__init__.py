"""Token bytes → text that may be shown, and where it ends. Knows nothing of models, HTTP or threads."""

from serve.text.stream import TextStream

__all__ = ["TextStream"]
