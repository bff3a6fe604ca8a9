"""Selection of a repository's files by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from turbopilot.base.errors import DownloadError
from turbopilot.formats.gguf.split import siblings

SIDE_FILES = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja",
    "README.md", "LICENSE",
}  # fmt: skip
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""A checkpoint without any of these has no tokenizer."""
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
_PICKLES = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin|pytorch_model\.bin\.index\.json")
_SAFE = re.compile(r"[\w+=@ -][\w.+=@ -]*(/[\w+=@ -][\w.+=@ -]*)*")
# The type in the name of a GGUF file: Q4_0, Q4_K_M, UD-IQ2_XXS, f16, MXFP4 …
_TYPE = re.compile(
    r"(?<![A-Za-z0-9])((UD-)?I?Q\d\w*|TQ\d_0|B?F16|FP16|F32|FP32|MXFP4\w*|NVFP4)(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
_PART_NUMBER = re.compile(r"-\d{5}(?=-of-\d{5}\.gguf$)")
_MOST_PARTS = 100_000  # of all models of a repository
_NO_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)


def choose_files(names: Iterable[str]) -> list[str]:
    """Return the files that conversion needs: config, tokenizer, and weights (safetensors, else pickles).

    >>> choose_files(["config.json", "model.safetensors", "pytorch_model.bin", "modeling_evil.py", "a/config.json"])
    ['config.json', 'model.safetensors']
    """
    names = sorted(names)
    weights = [n for n in names if _SAFETENSORS.fullmatch(n)]
    if not any(n.endswith(".safetensors") for n in weights):
        weights = [n for n in names if _PICKLES.fullmatch(n)]
    # If the weights are stored both in shards and in one file, transformers reads the shards if there is an index.
    if any(n.endswith(".index.json") for n in weights) and any("-of-" in n for n in weights):
        weights = [n for n in weights if n not in ("model.safetensors", "pytorch_model.bin")]
    return sorted(side_files(names) + weights)


def side_files(names: Iterable[str]) -> list[str]:
    """Return the files of a checkpoint other than weights: config, tokenizer, model card and license."""
    return sorted(n for n in names if n in SIDE_FILES)


def has_weights(names: Iterable[str]) -> bool:
    """Return whether a checkpoint's files include weights."""
    return any(n.endswith((".safetensors", ".bin")) for n in names)


def safe(name: str) -> bool:
    r"""Return whether a path in a repository stays below the repository's folder on every operating system.

    >>> [safe(n) for n in ("Q4_0/m.gguf", "../m.gguf", "/m.gguf", "a//b", r"a\\..\\b", ".ssh/x")]
    [True, False, False, False, False, False]
    """
    return _SAFE.fullmatch(name) is not None


def is_path(name: str) -> bool:
    r"""Return whether a name that the user typed is a path below the repository's folder; wider than `safe`.

    >>> [is_path(n) for n in ("a/m (1).gguf", "../m.gguf", "/m.gguf", "a//b.gguf", r"a\..\b.gguf", "C:m.gguf")]
    [True, False, False, False, False, False]
    """
    parts = name.split("/")
    return not {"", ".", ".."} & set(parts) and not re.search(r"[\x00-\x1f\x7f-\x9f\\:]", name)


def gguf_models(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the GGUF models among `names` as label → files, with all parts in order, including missing parts.

    The label is the quantization type in the name if it is unique, else the name. Image projectors and importance
    matrices are left out.

    Raises:
        DownloadError: the names refer to too many parts.
    """
    found: dict[str, tuple[str, ...]] = {}
    n_parts = 0
    for name in sorted(n for n in names if n.lower().endswith(".gguf") and safe(n)):
        first = _PART_NUMBER.sub("-00001", name)
        if first not in found and not _NO_MODEL.search(PurePosixPath(name).name):
            found[first] = parts(name)
            n_parts += len(found[first])
            if n_parts > _MOST_PARTS:
                raise DownloadError(
                    f"{name}: the GGUF files have more than {_MOST_PARTS:,} parts",
                    hint="give the name of one file: owner/name/FILE.gguf",
                )
    labels = [gguf_type(first) for first in found]
    counts = Counter(labels)
    return {
        label if label and counts[label] == 1 else first: files
        for label, (first, files) in zip(labels, found.items(), strict=True)
    }


def parts(name: str) -> tuple[str, ...]:
    """Return the names of all parts of a GGUF model, given one of them."""
    split = siblings(Path(name))
    return tuple(p.as_posix() for p in split[1]) if split else (name,)


def gguf_type(name: str) -> str:
    """Return the quantization type in a GGUF file's name, in capitals; "" if there is none.

    >>> [gguf_type(n) for n in ("codegen-q4_k_m.gguf", "X-UD-Q2_K_XL/X-UD-Q2_K_XL-00001-of-00002.gguf", "x.gguf")]
    ['Q4_K_M', 'UD-Q2_K_XL', '']
    """
    stem = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", PurePosixPath(name).name, flags=re.IGNORECASE)
    types = [found[0].upper() for found in _TYPE.finditer(stem)]
    return types[-1] if types else ""
