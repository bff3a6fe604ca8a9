"""Writer for a GGUF with a vocabulary and no weights, used in a trial. Imports gguf."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gguf import GGUFWriter

from converters.tokenizer.metadata import MetadataValue


def write_vocabulary(path: Path, metadata: Mapping[str, MetadataValue]) -> None:
    """Write a GGUF of the architecture "llama" with the keys of `GgufTokenizer.metadata`."""
    writer = GGUFWriter(path=None, arch="llama")
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file(path)
    try:
        writer.write_kv_data_to_file()
    finally:
        writer.close()
