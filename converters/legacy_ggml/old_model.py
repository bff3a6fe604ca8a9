"""Reader for old ggml files: it detects the family, and returns config, tensors and tokenizer like a checkpoint's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.checkpoint import Checkpoint
from converters.hfconfig import HfConfig
from converters.legacy_ggml.families import FAMILIES, OldFamily
from converters.legacy_ggml.vocabulary import check_same, is_lossy, read_vocabulary
from converters.source_tensor import SourceTensor
from converters.spec import ArchSpec
from converters.tokenizer import GgufTokenizer, read_tokenizer
from converters.tokenizer.files import SideFiles
from converters.tokenizer.read import assemble
from turbopilot.base.errors import (
    ConversionError,
    CorruptCheckpoint,
    InvalidInput,
    TokenizerMismatch,
    did_you_mean,
)
from turbopilot.formats.old_ggml import OldGgmlFile, check_kind, is_plausible, read_old

MODEL_TYPES = tuple(name for family in FAMILIES for name in family.model_types)


class TokenizerNeeded(TokenizerMismatch):
    """The file's vocabulary has lost bytes; the original model's tokenizer is needed."""


@dataclass(frozen=True, slots=True)
class OldModel:
    """An old ggml file, described like a checkpoint."""

    spec: ArchSpec
    config: HfConfig
    checkpoint: Checkpoint
    tokenizer: GgufTokenizer


def open_old(path: Path, model_type: str = "", tokenizer: Path | None = None) -> OldModel:
    """Read an old file's header, vocabulary and table of tensors.

    `model_type` is one of `MODEL_TYPES`, or "" to detect it; `tokenizer` is a folder with the original tokenizer,
    used instead of the file's vocabulary.

    Raises:
        InvalidInput: the file is not an old ggml file, or `model_type` is unknown.
        UnsupportedModel: its blocks have an older layout.
        CorruptCheckpoint, TokenizerMismatch: it is damaged, or not of the family `model_type`.
        TokenizerNeeded: its vocabulary has lost bytes, and `tokenizer` is not given.
    """
    check_kind(path)
    families = [f for f in FAMILIES if not model_type or model_type.lower() in f.model_types]
    if not families:
        raise InvalidInput(
            f"--model-type {model_type}: no such type", hint=did_you_mean(model_type, MODEL_TYPES)
        )
    family, file = _family(path, families)
    sources = {
        t.name: SourceTensor(t.name, t.type_name, t.shape, path, t.offset)
        for t in file.tensors.values()
    }
    values, tensors = family.read(file.params, sources)
    config = HfConfig({"architectures": [family.spec.architecture], **values}, str(path))
    words = _tokenizer(file, family, config, tokenizer)
    return OldModel(family.spec, config, Checkpoint(tensors), words)


def _family(path: Path, families: Sequence[OldFamily]) -> tuple[OldFamily, OldGgmlFile]:
    """Return the family whose header is plausible and whose vocabulary and tensors can be read."""
    plausible = [family for family in families if is_plausible(path, family.header)]
    if not plausible:
        raise CorruptCheckpoint(
            f"{path}: its header does not fit {_named(families)}",
            hint="it is damaged, or of a family that the original TurboPilot did not support"
            if len(families) > 1
            else "leave --model-type out",
        )
    failure: ConversionError | None = None
    for family in plausible:
        try:
            file = read_old(path, family.header)
        except CorruptCheckpoint as e:
            failure = failure or e
            continue
        if family.header.mark in file.tensors:
            return family, file
        failure = CorruptCheckpoint(
            f"{path}: has no tensor {family.header.mark!r}, so it is not {_named([family])}",
            hint="leave --model-type out, or download it again",
        )
    assert failure
    raise failure


def _named(families: Sequence[OldFamily]) -> str:
    return ", ".join(" or ".join(family.model_types) for family in families)


def _tokenizer(
    file: OldGgmlFile, family: OldFamily, config: HfConfig, folder: Path | None
) -> GgufTokenizer:
    n_vocab = file.params["n_vocab"]
    if folder:
        tokenizer = read_tokenizer(folder, family.spec.pre, n_vocab, config.values)
        check_same(file.path, file.vocabulary, tokenizer, folder)
        return tokenizer
    if is_lossy(file.vocabulary):
        raise TokenizerNeeded(
            f"{file.path}: its vocabulary was written as text, which lost tokens with incomplete UTF-8 characters",
            hint="give the original tokenizer: --tokenizer FOLDER (turbopilot download NAME --only tokenizer)",
        )
    vocabulary = read_vocabulary(file.path, file.vocabulary, family.cuts)
    nothing_beside = SideFiles(file.path.parent, {}, {}, {}, {})
    return assemble(vocabulary, nothing_beside, config.values, n_vocab)
