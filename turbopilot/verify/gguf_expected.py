"""What a GGUF holds, as what another should hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turbopilot.formats.gguf.file import TensorInfo, read_gguf
from turbopilot.verify.tensor_errors import dequantized
from turbopilot.verify.tensor_faults import Array


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of it, as an `ExpectedTensor`."""

    info: TensorInfo
    order: None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.info.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Outermost first."""
        return self.info.shape[::-1]

    @property
    def source(self) -> str:
        """The same name."""
        return self.info.name

    def read(self) -> Array:
        """Its values."""
        return dequantized(self.info)


@dataclass(frozen=True, slots=True)
class GgufExpected:
    """All of it, as an `Expected`."""

    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]


@contextmanager
def gguf_expected(path: Path) -> Iterator[GgufExpected]:
    """The metadata and the tensors of a GGUF file.

    Raises:
        InvalidInput, CorruptModel: it is none.
    """
    header = read_gguf(path)
    ours = ("general.architecture", "tokenizer.ggml.", f"{header.architecture}.")
    metadata = {key: value for key, value in header.metadata.items() if key.startswith(ours)}
    yield GgufExpected(metadata, tuple(GgufTensor(t) for t in header.tensors))
