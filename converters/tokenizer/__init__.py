"""Conversion of a checkpoint's tokenizer files to GGUF metadata.

If the pre-tokenizer's structure is not known, `trial` compares llama.cpp with tokenizers in a child process.
"""

from converters.tokenizer.metadata import UNUSED, GgufTokenizer
from converters.tokenizer.read import read_tokenizer

__all__ = ["UNUSED", "GgufTokenizer", "read_tokenizer"]
