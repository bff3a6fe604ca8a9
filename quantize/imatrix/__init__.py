"""Importance matrices: the weight that a quantizer gives to each input channel of a matrix.

>>> from pathlib import Path
>>> from quantize.imatrix import read_imatrix
>>> read_imatrix(Path("codegen-imatrix.gguf")).means()["blk.0.attn_q.weight"]  # doctest: +SKIP
"""

from quantize.imatrix.file import merge_files, read_imatrix, write_imatrix
from quantize.imatrix.gather import GatherOptions, GatherReport, gather, resume_path
from quantize.imatrix.matrix import Entry, Imatrix, check_matrix, merge
from quantize.imatrix.statistics import LayerStatistics, TensorStatistics, by_layer, statistics

__all__ = [
    "Entry", "GatherOptions", "GatherReport", "Imatrix", "LayerStatistics", "TensorStatistics", "by_layer",
    "check_matrix", "gather", "merge", "merge_files", "read_imatrix", "resume_path", "statistics", "write_imatrix",
]  # fmt: skip
