"""Importance matrices: which input channels of each weight matter, for quantizers to spend their bits on.

>>> from pathlib import Path
>>> from quantize.imatrix import read_imatrix
>>> read_imatrix(Path("codegen-imatrix.gguf")).means()["blk.0.attn_q.weight"]  # doctest: +SKIP
"""

from quantize.imatrix.check import check_matrix
from quantize.imatrix.file import read_imatrix, write_imatrix
from quantize.imatrix.values import Entry, Imatrix

__all__ = ["Entry", "Imatrix", "check_matrix", "read_imatrix", "write_imatrix"]
