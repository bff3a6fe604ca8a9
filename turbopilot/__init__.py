"""TurboPilot: from a Hugging Face code checkpoint to completions in your editor, with a proof."""

from turbopilot.base.version import __version__

__all__ = ["__version__"]
