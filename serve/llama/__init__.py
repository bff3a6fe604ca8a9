"""llama.cpp as a `Decoder`."""

from serve.llama.loading import load

__all__ = ["load"]
