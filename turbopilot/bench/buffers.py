"""What llama.cpp says that it allocated, read from its log. Pure.

Source: llama.cpp `src/llama-model.cpp`, `llama-kv-cache.cpp`, `llama-memory-recurrent.cpp`, `llama-context.cpp`: lines
as "load_tensors:   CPU_Mapped model buffer size =   256.63 MiB", one for each place where something lies.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_LINE = re.compile(
    r"(?P<place>\S+)\s+(?P<kind>model|KV|RS|output|compute) buffer size =\s*(?P<mib>[\d.]+) MiB"
)
# "llama_kv_cache: size = 23.91 MiB (  2048 cells, …), K (q8_0): …": the only word of it where nothing is allocated.
_CACHE = re.compile(r"size =\s*(?P<mib>[\d.]+) MiB \(.*\bK \(\w+\):")
_AGAIN: Final = (
    "output",
    "compute",
)  # told again where they grew; of the others several lines add up


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes, in all places together; llama.cpp tells hundredths of a MiB.

    Attributes:
        model: the weights, those that are mapped from the file included.
        kv: keys and values of the context (and the state of a recurrent model).
        compute: what a batch is computed in.
        output: the logits that are kept.
        places: place → bytes of all kinds there, as "CPU", "CPU_Mapped", "CUDA0".
    """

    model: int
    kv: int
    compute: int
    output: int
    places: dict[str, int]


def parsed_log(lines: Iterable[str]) -> Buffers:
    """Of the log of one model with one context.

    >>> parsed_log(["x:  CPU KV buffer size =  1.50 MiB", "x: CUDA0 KV buffer size = 0.50 MiB"]).kv
    2097152
    """
    found: dict[tuple[str, str], int] = defaultdict(int)
    caches = 0
    for line in lines:
        if cache := _CACHE.search(line):
            caches += round(float(cache["mib"]) * 2**20)
        if told := _LINE.search(line):
            at = told["kind"], told["place"]
            size = round(float(told["mib"]) * 2**20)
            found[at] = size if told["kind"] in _AGAIN else found[at] + size
    kinds: dict[str, int] = defaultdict(int)
    places: dict[str, int] = defaultdict(int)
    for (kind, place), size in found.items():
        kinds[kind] += size
        places[place] += size
    return Buffers(
        model=kinds["model"],
        kv=max(kinds["KV"], caches) + kinds["RS"],
        compute=kinds["compute"],
        output=kinds["output"],
        places=dict(places),
    )
