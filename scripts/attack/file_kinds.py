"""Kinds of files to attack: how each is changed, and the commands that read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from attack.gguf_parts import Pair, gguf_mutated, taken_apart
from attack.mutate import INTEGERS, TEXTS, json_bytes, json_mutated, scalar
from attack.samples import Samples, linked, serve_arguments
from attack.weight_parts import (
    old_ggml_mutated,
    prefix_mutated,
    safetensors_mutated,
    torch_mutated,
)
from tests.corpus.hostile import CONFIG_EDITS, DEEP_CONFIG, gguf_edits

MORE_TORCH: Final = "verify checkpoint"
"""The one reader that needs PyTorch."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A command that reads a mutated file.

    Attributes:
        name: of the verb, for the table.
        arguments: from the mutated file or folder, the output and the samples.
        every: it reads each n-th mutation.
        writes: whether it writes the output.
        serves: whether it is a server, which must answer a first completion or refuse the file.
    """

    name: str
    arguments: Callable[[Path, Path, Samples], list[str]]
    every: int = 1
    writes: bool = False
    serves: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file.

    Attributes:
        count: number of mutations in a whole run.
        name: name of the mutated file.
        base: the honest file that is mutated, from a generator and the samples.
        change: the mutation.
        inside: the checkpoint whose other files lie beside it.
    """

    count: int
    name: str
    base: Callable[[Random, Samples], Path]
    change: Callable[[Random, bytes], bytes]
    readers: tuple[Reader, ...]
    inside: Callable[[Samples], Path] | None = None

    def place(self, rng: Random, samples: Samples, folder: Path) -> tuple[Path, bytes]:
        """Write a mutation into a new folder; return the path that a command gets, and the mutated bytes."""
        data = self.change(rng, self.base(rng, samples).read_bytes())
        target = folder / "source"
        if self.inside:
            linked(self.inside(samples), target, without=self.name)
        else:
            target.mkdir(parents=True)
        (target / self.name).write_bytes(data)
        return (target if self.inside else target / self.name), data


def config_mutated(rng: Random, raw: bytes) -> bytes:
    """Return a config with one to three changed values, most often of a known key."""
    if rng.random() < 0.02:
        return DEEP_CONFIG
    config = json.loads(raw)
    if rng.random() < 0.05:
        return json.dumps({**config, **rng.choice(CONFIG_EDITS)}).encode()
    if rng.random() < 0.4:
        return json_bytes(rng, json_mutated(rng, config))
    for _ in range(rng.choice((1, 1, 2, 3))):
        key = rng.choice([*config, *_MORE_KEYS])
        config[key] = rng.choice(
            (scalar(rng), scalar(rng), rng.choice(INTEGERS), [scalar(rng)], {"type": scalar(rng)})
        )
    return json.dumps(config).encode()


_MORE_KEYS: Final = (
    "n_layer", "num_hidden_layers", "layer_norm_epsilon", "rms_norm_eps", "rotary_dim", "rope_theta", "rope_scaling",
    "rope_parameters", "quantization_config", "architectures", "model_type", "vocab_size", "sliding_window", "head_dim",
    "torch_dtype", "num_key_value_heads", "hidden_act", "max_position_embeddings", "bos_token_id", "eos_token_id",
    "auto_map", "tie_word_embeddings", "n_inner", "intermediate_size", "layer_types", "_name_or_path",
)  # fmt: skip


_STEPS: Final[tuple[Any, ...]] = (
    {"type": "Precompiled", "precompiled_charsmap": "A" * 5000}, {"type": "Sequence", "normalizers": [None]}, [],
    {"type": "Split", "pattern": {"Regex": "(a+)+$" * 50}, "behavior": "Isolated", "invert": False}, {"type": 3},
    {"type": "Sequence", "pretokenizers": [{"type": "Digits"}] * 2000},
    {"type": "Replace", "pattern": {"String": ""}},
)  # fmt: skip


def tokenizer_mutated(rng: Random, raw: bytes) -> bytes:
    """Return a tokenizer.json with a changed vocabulary, merge, added token or step."""
    value = json.loads(raw)
    vocab, merges, way = value["model"]["vocab"], value["model"]["merges"], rng.randrange(9)
    token = rng.choice(list(vocab))
    if way == 0:
        vocab[token] = rng.choice((*INTEGERS, None, "5", 1.5))
    elif way == 1:
        vocab[rng.choice(TEXTS)] = vocab.pop(token)
    elif way == 2:
        wrong = (["a"], ["", ""], "no merge", 7, ["x" * 9999, "y"], "a b c", None)
        merges[rng.randrange(len(merges))] = rng.choice(wrong)
    elif way == 3:
        value["added_tokens"].append(
            {"id": rng.choice(INTEGERS), "content": rng.choice(TEXTS), "special": True}
        )
    elif way == 4:
        step = rng.choice(("normalizer", "pre_tokenizer", "post_processor", "decoder"))
        value[step] = rng.choice(_STEPS)
    elif way == 5:
        value["model"]["type"] = rng.choice(("WordPiece", "Unigram", "WordLevel", 5, None))
    else:
        value = json_mutated(rng, value)
    return json_bytes(rng, value)


def from_corpus(rng: Random, raw: bytes) -> bytes:
    """Return a GGUF file that once broke a promise."""
    parts = taken_apart(raw)
    n_tokens = next(len(p.items) for p in parts.pairs if p.key == b"tokenizer.ggml.tokens")
    key, edit = rng.choice(list(gguf_edits("qwen2", n_tokens)))
    parts.pairs = [p for p in parts.pairs if p.key != key.encode()]
    parts.pairs.append(_Raw(edit))
    return parts.bytes()


class _Raw(Pair):
    """A pair that is in the file's form already."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(b"", 0, raw)

    def bytes(self) -> bytes:
        return self.value


def _to(*words: str) -> Callable[[Path, Path, Samples], list[str]]:
    """Return the arguments of a verb: SOURCE, OUTPUT and TEXT are replaced."""

    def arguments(source: Path, output: Path, samples: Samples) -> list[str]:
        known = {
            "SOURCE": source, "OUTPUT": output, "TEXT": samples.text, "GGUF": samples.gguf, "CODE": samples.text.parent,
        }  # fmt: skip
        return [str(known.get(word, word)) for word in words]

    return arguments


def _serve(source: Path, output: Path, samples: Samples) -> list[str]:
    return serve_arguments(source)


def _serve_prefixes(source: Path, output: Path, samples: Samples) -> list[str]:
    return serve_arguments(
        samples.gguf, "--prefix-cache", "8MiB", "--prefix-cache-dir", str(source.parent)
    )


def _serve_adapter(source: Path, output: Path, samples: Samples) -> list[str]:
    return serve_arguments(samples.gguf, "--lora", str(source))


_VERIFY = ("--positions", "20", "--text", "TEXT")
_PLAN = Reader("convert --dry-run", _to("convert", "SOURCE", "--dry-run"))
_CONVERT = Reader(
    "convert", _to("convert", "SOURCE", "-o", "OUTPUT", "--force"), every=2, writes=True
)
_INSPECT = Reader("inspect", _to("inspect", "SOURCE", "--tensors", "--metadata"), every=2)
_TORCH = Reader(MORE_TORCH, _to("verify", "GGUF", "--against", "SOURCE", *_VERIFY), every=25)
_OF_CHECKPOINTS = (_PLAN, _CONVERT, _INSPECT, _TORCH)

_OF_GGUF = (
    Reader("inspect", _to("inspect", "SOURCE", "--tensors", "--metadata")),
    Reader("serve", _serve, every=2, serves=True),
    Reader(
        "quantize",
        _to("quantize", "SOURCE", "Q4_0", "-o", "OUTPUT", "--force", "--allow-requantize"),
        every=3,
        writes=True,
    ),
    Reader("verify", _to("verify", "SOURCE", "--against", "GGUF", *_VERIFY), every=5),
)

KINDS: Final[Mapping[str, Kind]] = {
    "gguf": Kind(
        600, "model.gguf", lambda rng, s: s.gguf if rng.random() < 0.6 else s.gguf_q8, gguf_mutated,
        _OF_GGUF,
    ),
    "corpus": Kind(24, "model.gguf", lambda rng, s: s.gguf, from_corpus, _OF_GGUF),
    "safetensors": Kind(
        300, "model.safetensors", lambda rng, s: s.modern / "model.safetensors", safetensors_mutated, _OF_CHECKPOINTS,
        lambda s: s.modern,
    ),
    "pytorch": Kind(
        300, "pytorch_model.bin", lambda rng, s: s.older / "pytorch_model.bin", torch_mutated, _OF_CHECKPOINTS,
        lambda s: s.older,
    ),
    "old ggml": Kind(
        200, "old.bin", lambda rng, s: s.old_bin, old_ggml_mutated,
        (_PLAN, Reader("import", _to("convert", "SOURCE", "-o", "OUTPUT", "--force"), writes=True)),
    ),
    "tokenizer.json": Kind(
        200, "tokenizer.json", lambda rng, s: s.modern / "tokenizer.json", tokenizer_mutated, (_PLAN, _CONVERT, _TORCH),
        lambda s: s.modern,
    ),
    "config.json": Kind(
        250, "config.json", lambda rng, s: s.modern / "config.json", config_mutated, _OF_CHECKPOINTS, lambda s: s.modern
    ),
    "imatrix": Kind(
        120, "imatrix.gguf", lambda rng, s: s.imatrix, gguf_mutated,
        (
            Reader("imatrix --show", _to("imatrix", "--show", "SOURCE")),
            Reader("quantize", _to("quantize", "GGUF", "IQ4_NL", "--imatrix", "SOURCE", "-o", "OUTPUT", "--force"),
                   every=2, writes=True),
        ),
    ),
    "adapter": Kind(
        150, "adapter.gguf", lambda rng, s: s.adapter, gguf_mutated,
        (
            Reader("inspect", _to("inspect", "SOURCE", "--tensors", "--metadata"), every=3),
            Reader("serve", _serve_adapter, serves=True),
        ),
    ),
    "prefix cache": Kind(
        80, "{prefix}", lambda rng, s: s.prefix or s.text, prefix_mutated,
        (Reader("serve", _serve_prefixes, serves=True),),
    ),
}  # fmt: skip
