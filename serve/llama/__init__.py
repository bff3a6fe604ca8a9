"""The `Decoder` that runs llama.cpp."""

from serve.llama.loading import load

__all__ = ["load"]
