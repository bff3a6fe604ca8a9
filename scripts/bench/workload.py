"""Prompts of the benchmarks: code of the calibration corpus, cut to a number of tokens of the given model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turbopilot.corpus import excerpts

_SEED = 20_241_125
# Prose and data are not typical prompts of a code model.
_NO_CODE = {"markdown", "json", "html", "yaml", "toml"}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the scenarios.

    Attributes:
        prompt: tokens of an unshared prompt.
        one: (requests, generated tokens for each) of scenario `one`.
        clients: (clients, requests of each) of scenario `eight`.
        tokens: generated tokens for each request of `eight` and `shared`.
        windows: (requests, lines) of scenario `sliding`; each window begins and ends one line later.
        files: (requests, other files, tokens of each, tokens of the edited file) of scenario `repository`; each request
            drops the oldest of the other files and has a new one.
        line_tokens: generated tokens for each request of `sliding` and `repository`.
        beside: (requests on an idle machine, requests beside busy processes) of scenario `beside`.
        beside_tokens: generated tokens for each of them.
        sharers: (clients, tokens of the shared prefix, further tokens of each client) of scenario `shared`.
    """

    prompt: int = 300
    one: tuple[int, int] = (6, 64)
    clients: tuple[int, int] = (8, 3)
    tokens: int = 32
    windows: tuple[int, int] = (31, 120)
    files: tuple[int, int, int, int] = (9, 12, 100, 300)
    line_tokens: int = 8
    beside: tuple[int, int] = (12, 24)
    beside_tokens: int = 15
    sharers: tuple[int, int, int] = (16, 1500, 20)


TINY = Sizes(
    prompt=40,
    one=(2, 8),
    clients=(3, 2),
    tokens=6,
    windows=(3, 20),
    files=(3, 2, 20, 20),
    line_tokens=2,
    beside=(2, 2),
    beside_tokens=2,
    sharers=(3, 100, 8),
)  # for tests of the benchmark; too small to measure speed


class Texts:
    """Code excerpts cut with the model's tokenizer."""

    def __init__(self, model: Path) -> None:
        import llama_cpp

        self._model: Any = llama_cpp.Llama(str(model), vocab_only=True, verbose=False)
        found = [e.text for e in excerpts("calibration") if e.language not in _NO_CODE]
        random.Random(_SEED).shuffle(found)
        self._texts = found

    def close(self) -> None:
        self._model.close()

    def fresh(self, n_tokens: int) -> Iterator[str]:
        """Yield prompts of `n_tokens`, each from a different file."""
        for text in self._texts:
            tokens = self._tokens(text)
            if len(tokens) >= n_tokens:
                yield self._text(tokens[:n_tokens])

    def shared(self, n: int, n_prefix: int, n_own: int) -> list[str]:
        """Return `n` prompts that begin with the same `n_prefix` tokens and end with `n_own` different ones."""
        prefix = self._text(self._tokens("\n".join(self._texts[:12]))[:n_prefix])
        own = [self._text(self._tokens(text)[:n_own]) for text in self._texts[12 : 12 + n]]
        return [f"{prefix}\n\n{text}" for text in own]

    def windows(self, n: int, n_lines: int) -> list[str]:
        """Return `n` windows of `n_lines` of one text, each one line further, and each at the end of a line."""
        lines = "".join(self._texts).splitlines(keepends=True)
        lines = [line for line in lines if line.strip()]
        return ["".join(lines[i : i + n_lines]) for i in range(n)]

    def repositories(self, n: int, n_files: int, n_each: int, n_own: int) -> list[str]:
        """Return `n` prompts with pieces of other files in front; each drops the first one and has a new last one."""
        pieces = [
            f"# file {i}\n{self._text(self._tokens(text)[:n_each])}\n\n"
            for i, text in enumerate(self._texts[: n_files + n])
        ]
        own = self._text(self._tokens("".join(self._texts[n_files + n :]))[:n_own])
        return ["".join(pieces[i : i + n_files]) + own for i in range(n)]

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._model.tokenize(text.encode(), add_bos=False, special=False)
        return tokens

    def _text(self, tokens: list[int]) -> str:
        data: bytes = self._model.detokenize(tokens)
        return data.decode(errors="ignore")
