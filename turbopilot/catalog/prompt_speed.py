"""Measured prefill speed of each type, which does not depend on the number of bits alone.

Use `scripts/bench_types.py` to measure another machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MEASURED_ON: Final = "2 cores of an AMD EPYC with AVX-512, llama.cpp of llama-cpp-python 0.3.36"
# File type → percent of the tokens per second in F16: CodeGen-350M's geometry, 256 tokens, medians of three rounds in
# which the types take turns.
PROMPT_SPEED: Final[dict[str, int]] = {
    "F32": 58, "F16": 100, "BF16": 166, "Q8_0": 99, "Q6_K": 179, "Q5_K_M": 200, "Q5_K_S": 190, "Q5_1": 45, "Q5_0": 90,
    "Q4_K_M": 133, "Q4_K_S": 117, "IQ4_NL": 154, "IQ4_XS": 217, "Q4_1": 50, "Q4_0": 142, "Q3_K_L": 203, "Q3_K_M": 159,
    "Q3_K_S": 181, "IQ3_M": 166, "IQ3_S": 167, "IQ3_XS": 191, "IQ3_XXS": 190, "Q2_K": 123, "Q2_K_S": 89, "IQ2_M": 201,
    "IQ2_S": 174, "IQ2_XS": 166, "IQ2_XXS": 193, "IQ1_M": 134, "IQ1_S": 171, "TQ2_0": 111, "TQ1_0": 67, "Q2_0": 5,
    "Q1_0": 66, "MXFP4_MOE": 102,
}  # fmt: skip


def prompt_speeds(names: Iterable[str]) -> str:
    """Return the speeds of file types in one line, in percent of F16.

    >>> prompt_speeds(["Q5_1", "IQ4_XS"])
    'Q5_1 45 %, IQ4_XS 217 % of F16 (2 cores of an AMD EPYC with AVX-512, llama.cpp of llama-cpp-python 0.3.36)'
    """
    listed = ", ".join(f"{name} {PROMPT_SPEED[name]} %" for name in names if name != "F16")
    return f"{listed} of F16 ({MEASURED_ON})"
