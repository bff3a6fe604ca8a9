"""What is known of a model: values only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Matrix(NamedTuple):
    """A kind of weight matrix: its role, which is its name in a GGUF, its shape, how many layers have it."""

    role: str
    rows: int
    columns: int
    layers: int = 1


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes that decide how many weights a model has and how much memory its context takes.

    Attributes:
        layers: blocks of attention and feed-forward.
        width: hidden size.
        heads: query heads.
        kv_heads: key and value heads.
        ffn: feed-forward size.
        vocab: rows of the token embedding.
        tied: the output head is the token embedding.
        gated: the feed-forward has a gate, a third matrix.
        fused: q, k and v are one matrix in a GGUF.
        positions: rows of a table of learned positions.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    tied: bool = False
    gated: bool = False
    fused: bool = False
    positions: int = 0

    @property
    def head_size(self) -> int:
        """Dimensions of one head."""
        return self.width // self.heads

    def matrices(self) -> Iterator[Matrix]:
        """Every matrix as a GGUF has it; norms and biases, which are thousandths of the whole, are left out."""
        kv = self.kv_heads * self.head_size
        yield Matrix("token_embd", self.vocab, self.width)
        if not self.tied:
            yield Matrix("output", self.vocab, self.width)
        if self.positions:
            yield Matrix("position_embd", self.positions, self.width)
        if self.fused:
            yield Matrix("attn_qkv", self.width + 2 * kv, self.width, self.layers)
        else:
            yield Matrix("attn_q", self.width, self.width, self.layers)
            yield Matrix("attn_k", kv, self.width, self.layers)
            yield Matrix("attn_v", kv, self.width, self.layers)
        yield Matrix("attn_output", self.width, self.width, self.layers)
        yield Matrix("ffn_up", self.ffn * (2 if self.gated else 1), self.width, self.layers)
        yield Matrix("ffn_down", self.width, self.ffn, self.layers)

    @property
    def weights(self) -> int:
        """Weights in all matrices.

        >>> Geometry(layers=2, width=8, heads=2, kv_heads=1, ffn=32, vocab=10, tied=True).weights
        1488
        """
        return sum(m.rows * m.columns * m.layers for m in self.matrices())


@dataclass(frozen=True, slots=True)
class OldFile:
    """A ggml `.bin` that the original TurboPilot's list of models named.

    Attributes:
        repository: on the Hugging Face Hub.
        file: its name there.
        model_type: what `serve --model-type` must say to read it.
    """

    repository: str
    file: str
    model_type: str

    @property
    def url(self) -> str:
        """Where it is downloaded."""
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the catalogue.

    Attributes:
        alias: what a person types for it; letter case does not matter.
        family: the heading it stands under.
        repository: owner/name on the Hugging Face Hub.
        architecture: the name in its config.json.
        parameters: exact count, as transformers counts them.
        geometry: its sizes.
        context: tokens that it can be served with; of StarCoder2, its sliding window.
        licence: of the weights.
        suits: which machine or purpose it is for, in words.
        languages: programming languages that its authors name; of those with many, the common ones.
        breadth: the languages in short, where they are too many to list.
        fim: whether it fills in the middle, and its tokens for that are known.
        gated: whether the Hub wants its licence accepted by somebody logged in.
        revision: branch, tag or commit; "" is main.
        gguf_repository: where ready-made GGUF files are known to be; "" where none is.
        old_bin: the original's file of it.
        chat_template: how messages become a prompt, where its own files do not say it.
    """

    alias: str
    family: str
    repository: str
    architecture: str
    parameters: int
    geometry: Geometry
    context: int
    licence: str
    suits: str
    languages: tuple[str, ...] = ()
    breadth: str = ""
    fim: bool = False
    gated: bool = False
    revision: str = ""
    gguf_repository: str = ""
    old_bin: OldFile | None = None
    chat_template: str = ""

    @property
    def url(self) -> str:
        """Its page on the Hub."""
        return f"https://huggingface.co/{self.repository}"

    @property
    def languages_in_short(self) -> str:
        """The languages, for a table."""
        return self.breadth or ", ".join(self.languages)
