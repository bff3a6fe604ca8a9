"""Whether a matrix is of a model. Pure: compares a matrix with a model's header."""

from __future__ import annotations

from quantize.imatrix.matrix import Imatrix
from turbopilot.base.errors import QuantizationError
from turbopilot.formats.gguf.file import GgufHeader

_SHOWN = 5


def check_matrix(imatrix: Imatrix, header: GgufHeader) -> None:
    """Refuse a matrix that was gathered from another model.

    llama.cpp quantizes without a word what a matrix does not name, so that a wrong one would go unnoticed.
    That a matrix has nothing of some weights (the embedding, an output head) is usual.

    Raises:
        QuantizationError: the model lacks weights of the matrix, or their sizes differ; the first are named.
    """
    tensors = {t.name: t for t in header.tensors}
    wrong = []
    for name, entry in imatrix.entries.items():
        if (
            " (" in name
        ):  # "… (view)": a part of a weight, which llama-imatrix notes and nothing uses
            continue
        if (tensor := tensors.get(name)) is None:
            wrong.append(f"{name}: the model has none")
            continue
        # llama.cpp: as many values as the matrices of the tensor have columns together
        columns = tensor.shape[0] * (tensor.shape[2] if len(tensor.shape) > 2 else 1)
        if entry.sums.size != columns:
            wrong.append(f"{name}: {entry.sums.size:,} columns, the model's has {columns:,}")
    if wrong:
        more = [f"and {len(wrong) - _SHOWN:,} more"] if len(wrong) > _SHOWN else []
        listed = "\n  ".join([*wrong[:_SHOWN], *more])
        raise QuantizationError(
            f"the importance matrix is not of {header.path}:\n  {listed}",
            hint=f"gather one from this model: turbopilot imatrix {header.path}",
        )
