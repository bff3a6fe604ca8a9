"""Importance matrices: which input channels of each weight matter, for quantizers to spend their bits on.

>>> from pathlib import Path
>>> from quantize.imatrix import read_imatrix
>>> read_imatrix(Path("codegen-imatrix.gguf")).means()["blk.0.attn_q.weight"]  # doctest: +SKIP
"""

from quantize.imatrix.check import check_matrix
from quantize.imatrix.file import read_imatrix, write_imatrix
from quantize.imatrix.gather import GatherReport, gather, resume_path
from quantize.imatrix.matrix import Entry, Imatrix
from quantize.imatrix.merge import merge
from quantize.imatrix.statistics import LayerStatistics, TensorStatistics, by_layer, statistics

__all__ = [
    "Entry",
    "GatherReport",
    "Imatrix",
    "LayerStatistics",
    "TensorStatistics",
    "by_layer",
    "check_matrix",
    "gather",
    "merge",
    "read_imatrix",
    "resume_path",
    "statistics",
    "write_imatrix",
]
