"""TurboPilot converts Hugging Face code models to GGUF, verifies them against PyTorch and serves completions."""

from turbopilot.base.version import __version__

__all__ = ["__version__"]
