"""A checkpoint's tokenizer files → the metadata that GGUF holds.

Needs neither transformers nor tokenizers nor llama.cpp, unless the files cut text in a way that is not
known by its structure: then llama.cpp itself is tried, in a process of its own (`trial`).
"""

from converters.tokenizer.metadata import UNUSED, GgufTokenizer
from converters.tokenizer.read import read_tokenizer

__all__ = ["UNUSED", "GgufTokenizer", "read_tokenizer"]
