"""What a checkpoint's GGUF holds, as values: for whoever checks a file tensor by tensor. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.checkpoint import Checkpoint
from converters.plan import PlannedTensor
from converters.prepare import prepare
from converters.spec import IntArray
from converters.stream import read_tensor


@dataclass(frozen=True, slots=True)
class ExpectedTensor:
    """One tensor of it: `shape` outermost first."""

    name: str
    shape: tuple[int, ...]
    source: str
    order: IntArray | None
    planned: PlannedTensor
    checkpoint: Checkpoint

    def read(self) -> npt.NDArray[np.float32]:
        """Its values; while the checkpoint is open."""
        return read_tensor(self.checkpoint, self.planned)


@dataclass(frozen=True, slots=True)
class Expected:
    """All of it: what `convert --dtype f32` would write."""

    metadata: Mapping[str, Any]
    tensors: tuple[ExpectedTensor, ...]


@contextmanager
def expected(source: Path) -> Iterator[Expected]:
    """What the GGUF of a checkpoint's folder, or of an old ggml file, should hold.

    Raises:
        TurboPilotError: it cannot be converted; see `convert`.
    """
    dtype = "" if source.is_file() else "f32"
    with prepare(source, dtype) as p:
        arch = p.plan.spec.gguf
        keys = {f"{arch}.{key}": value for key, value in p.plan.keys.items()}
        yield Expected(
            metadata={"general.architecture": arch, **keys, **p.tokenizer.metadata()},
            tensors=tuple(_tensor(t, p.checkpoint) for t in p.plan.tensors),
        )


def _tensor(planned: PlannedTensor, checkpoint: Checkpoint) -> ExpectedTensor:
    sources = " + ".join(part.source.name for part in planned.parts) or "zeros"
    order = planned.parts[0].rows if len(planned.parts) == 1 else None
    return ExpectedTensor(planned.name, planned.shape, sources, order, planned, checkpoint)
