"""llama.cpp as a Decoder: a thin layer over `turbopilot.llama`."""

from serve.llama.loading import load

__all__ = ["load"]
