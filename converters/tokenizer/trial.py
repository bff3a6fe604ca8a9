"""Comparison of llama.cpp with tokenizers on a corpus, if a tokenizer's structure does not prove that they agree.

A child process loads the vocabulary in llama.cpp under each pre-tokenizer name, until all ids are equal.
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
from turbopilot.base.quoting import quoted
from turbopilot.llama.child import ChildFailed, run_child

_PATIENCE: Final = 600.0  # seconds for one child; 30 names and 150,000 tokens take 40 s


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Result for one name: the number of equal texts and ids, and the first text that differs, with its ids."""

    name: str
    n_texts: int
    n_ids: int
    text: str = ""
    ours: Sequence[int] = ()
    theirs: Sequence[int] = ()


def settle(vocabulary: Vocabulary, tokenizer: GgufTokenizer) -> GgufTokenizer:
    """Return the tokenizer with the first of `vocabulary.candidates` that gives equal ids in llama.cpp.

    Raises:
        TokenizerMismatch: no name gives equal ids (the message shows a difference), or none can be tried.
    """
    doubts = f"{vocabulary.path}: {'; '.join(vocabulary.doubts)}"
    if vocabulary.path.name != "tokenizer.json":
        raise TokenizerMismatch(
            doubts, hint="add a tokenizer.json, which can be compared with llama.cpp"
        )
    if find_spec("tokenizers") is None:
        raise TokenizerMismatch(
            f"{doubts}; it could be compared with llama.cpp, but tokenizers is not installed",
            hint="pip install tokenizers",
        )
    texts = trial_texts(vocabulary)
    outcomes = _run(vocabulary, tokenizer, texts)
    for outcome in outcomes:
        if outcome.n_texts == len(texts):
            origin = f"by trial of {len(outcomes)}: all {outcome.n_ids:,} ids equal"
            return replace(tokenizer, pre=outcome.name, pre_origin=origin)
    raise TokenizerMismatch(
        f"{doubts}{_nearest(outcomes, tokenizer)}",
        hint="nothing was written: llama.cpp would not tokenize text as this tokenizer does",
    )


def _nearest(outcomes: list[_Outcome], tokenizer: GgufTokenizer) -> str:
    """Describe the first difference for the name with the most equal texts."""
    seen = [o for o in outcomes if o.text]
    if not seen:
        return f"; of {len(outcomes)} pre-tokenizers tried, none works in llama.cpp"
    best = max(seen, key=lambda o: (o.n_texts, o.n_ids))
    at = next(
        (i for i, (a, b) in enumerate(zip(best.ours, best.theirs, strict=False)) if a != b),
        min(len(best.ours), len(best.theirs)),
    )
    # Ids have no positions in the text, so the place in a long text is estimated by proportion.
    centre = len(best.text) * at // max(1, len(best.ours))
    around = best.text[max(0, centre - 30) : centre + 30]

    def words(ids: Sequence[int]) -> str:
        part = (i for i in ids[max(0, at - 2) : at + 4] if i < len(tokenizer.tokens))
        return " ".join(f"{i} {quoted(tokenizer.tokens[i])}" for i in part)

    return (
        f"; of {len(outcomes)} pre-tokenizers tried, {best.name} is closest, but in {quoted(around)} llama.cpp gives"
        f" {words(best.theirs) or 'no tokens'} and the tokenizer gives {words(best.ours) or 'no tokens'}"
    )


def _run(vocabulary: Vocabulary, tokenizer: GgufTokenizer, texts: list[str]) -> list[_Outcome]:
    """Try names until one matches; if a name crashes the child, another child continues with the next name."""
    from converters.tokenizer.trial_file import write_vocabulary  # imports gguf

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
                    f"{vocabulary.path}: {'; '.join(vocabulary.doubts)}; comparison with llama.cpp failed: {complaint}",
                    hint="pip install --upgrade tokenizers llama-cpp-python",
                )
            outcomes += done
            if done and done[-1].n_texts == len(texts):
                break
            names = names[len(done) :]
            if names:  # the next one crashed the child
                outcomes.append(_Outcome(names.pop(0), 0, 0))
    return outcomes


def _child(job: dict[str, Any], n_texts: int) -> tuple[list[_Outcome] | None, str]:
    """Run one child; return its outcomes, or None if it did not reach llama.cpp, and the error if it failed."""
    outcomes: list[_Outcome] = []
    started = False

    def receive(message: Mapping[str, Any]) -> None:
        nonlocal started
        if "reference" in message:
            started = True
        else:
            outcomes.append(_Outcome(**message))

    complaint = ""
    try:
        run_child("converters.tokenizer.trial_child", job, on_message=receive, timeout=_PATIENCE)
    except ChildFailed as e:
        complaint = e.last_words.splitlines()[-1][:300]
    except TurboPilotError as e:
        complaint = e.message
    return (outcomes if started else None), complaint
