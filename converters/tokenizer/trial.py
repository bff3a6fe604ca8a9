"""Trying llama.cpp in a child process, if structure does not prove that it cuts text alike.

A vocabulary without weights is written to a temporary file; the child cuts a corpus with tokenizers, which is the
tokenizer's own implementation, and with llama.cpp under each name. A name is taken if every id is the same.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from converters.tokenizer.metadata import GgufTokenizer, Vocabulary
from converters.tokenizer.trial_texts import trial_texts
from turbopilot.base.errors import TokenizerMismatch, TurboPilotError
from turbopilot.llama.child import ChildFailed, run_child

_PATIENCE: Final = 600.0  # seconds for one child; 30 names and 150,000 tokens take 40


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One name: how many texts and ids came out alike, and the first text that did not, with its ids."""

    name: str
    n_texts: int
    n_ids: int
    text: str = ""
    ours: Sequence[int] = ()
    theirs: Sequence[int] = ()
    differs: bool = False


def settle(vocabulary: Vocabulary, tokenizer: GgufTokenizer) -> GgufTokenizer:
    """The tokenizer under the first of `vocabulary.candidates` with which llama.cpp cuts the corpus alike.

    Raises:
        TokenizerMismatch: there is none, or it cannot be tried; the message has the doubts and the first
            difference of the name that comes nearest.
    """
    doubts = "; ".join(vocabulary.doubts)
    if vocabulary.path.name != "tokenizer.json":
        raise TokenizerMismatch(
            f"{vocabulary.path}: {doubts}", hint="a tokenizer.json beside it could be tried"
        )
    if find_spec("tokenizers") is None:
        raise TokenizerMismatch(
            f"{vocabulary.path}: {doubts}; llama.cpp could be tried, but tokenizers is not installed",
            hint="pip install tokenizers",
        )
    texts = trial_texts(vocabulary)
    outcomes = _run(vocabulary, tokenizer, texts)
    for outcome in outcomes:
        if outcome.n_texts == len(texts):
            origin = f"by trial of {len(outcomes)}: all {outcome.n_ids:,} ids equal"
            return replace(tokenizer, pre=outcome.name, pre_origin=origin)
    raise TokenizerMismatch(
        f"{vocabulary.path}: {doubts}{_nearest(outcomes, tokenizer)}",
        hint="nothing was written: llama.cpp would not cut text as this tokenizer does",
    )


def _nearest(outcomes: list[_Outcome], tokenizer: GgufTokenizer) -> str:
    """The first difference of the name that came furthest, in words."""
    seen = [o for o in outcomes if o.differs]
    if not seen:
        return f"; of {len(outcomes)} tried, llama.cpp survives none"
    best = max(seen, key=lambda o: (o.n_texts, o.n_ids))
    at = next(
        (i for i, (a, b) in enumerate(zip(best.ours, best.theirs, strict=False)) if a != b),
        min(len(best.ours), len(best.theirs)),
    )
    part = slice(max(0, at - 2), at + 4)

    def words(ids: Sequence[int]) -> str:
        return " ".join(
            f"{i} {tokenizer.tokens[i]!r}" for i in ids[part] if i < len(tokenizer.tokens)
        )

    return (
        f": of {len(outcomes)} tried, {best.name} comes nearest, but in {_around(best, at)!r} llama.cpp makes"
        f" {words(best.theirs) or 'nothing'} where the tokenizer makes {words(best.ours) or 'nothing'}"
    )


def _around(outcome: _Outcome, at: int) -> str:
    """The text near a difference; ids are not positions, so it is found by proportion in a long text."""
    centre = len(outcome.text) * at // max(1, len(outcome.ours))
    return outcome.text[max(0, centre - 30) : centre + 30]


def _run(vocabulary: Vocabulary, tokenizer: GgufTokenizer, texts: list[str]) -> list[_Outcome]:
    """Try names until one fits. A name on which llama.cpp ends the child counts as unlike; another child goes on."""
    from converters.tokenizer.trial_file import write_vocabulary  # gguf, only where it is needed

    outcomes: list[_Outcome] = []
    with tempfile.TemporaryDirectory(prefix="turbopilot-") as name:
        folder = Path(name).absolute()
        file, text_file = folder / "vocabulary.gguf", folder / "texts.json"
        write_vocabulary(file, replace(tokenizer, chat_templates={}).metadata())
        text_file.write_text(json.dumps(texts), "utf-8")
        names = list(vocabulary.candidates)
        while names:
            job = {
                "tokenizer": str(vocabulary.path.absolute()), "vocabulary": str(file), "texts": str(text_file),
                "names": names, "added": [[t.text, t.special, t.normalized] for t in vocabulary.beside],
            }  # fmt: skip
            done, complaint = _child(job, len(texts))
            if done is None:
                raise TokenizerMismatch(
                    f"{vocabulary.path}: {'; '.join(vocabulary.doubts)}; and llama.cpp cannot be tried: {complaint}",
                    hint="pip install --upgrade tokenizers llama-cpp-python",
                )
            outcomes += done
            if done and done[-1].n_texts == len(texts):
                break
            names = names[len(done) :]
            if names:  # the child ended on the next one
                outcomes.append(_Outcome(names.pop(0), 0, 0))
    return outcomes


def _child(job: dict[str, Any], n_texts: int) -> tuple[list[_Outcome] | None, str]:
    """Run one child. None if it did not get as far as llama.cpp, with its last words."""
    outcomes: list[_Outcome] = []
    started = False

    def receive(message: Mapping[str, Any]) -> None:
        nonlocal started
        if "reference" in message:
            started = True
        else:
            outcomes.append(_Outcome(**{"differs": "text" in message, **message}))

    complaint = ""
    try:
        run_child("converters.tokenizer.trial_child", job, on_message=receive, timeout=_PATIENCE)
    except ChildFailed as e:
        complaint = e.last_words.splitlines()[-1][:300]
    except TurboPilotError as e:
        complaint = e.message
    return (outcomes if started else None), complaint
