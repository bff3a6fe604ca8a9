"""What a quantization can be told beside its type. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantize.tensor_types import Override


@dataclass(frozen=True, slots=True)
class Options:
    """See `turbopilot quantize --help`.

    Attributes:
        overrides: the first whose pattern is found in a tensor's name decides its type.
        output_type: of `output.weight`, the head; "" is the recipe's own choice.
        embedding_type: of `token_embd.weight`, which is the head too where it is tied.
        pure: every matrix in the recipe's base type, no mixture.
        keep_split: a model in several files stays in as many.
        allow_requantize: tensors that are quantized already are quantized again.
        imatrix: the file of an importance matrix.
        threads: 0 is all cores.
    """

    overrides: tuple[Override, ...] = ()
    output_type: str = ""
    embedding_type: str = ""
    pure: bool = False
    keep_split: bool = False
    allow_requantize: bool = False
    imatrix: Path | None = None
    threads: int = 0
