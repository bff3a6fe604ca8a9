"""llama.cpp as a Decoder. Nothing else of `serve` imports llama_cpp, and nothing of it leaves this package."""

from serve.llama.loading import load

__all__ = ["load"]
