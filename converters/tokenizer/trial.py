"""Where structure does not prove that llama.cpp cuts text alike: llama.cpp is tried. Imports it only in a child.

A vocabulary without weights is written to a temporary file; the child cuts a corpus with tokenizers, which
is the tokenizer's own implementation, and with llama.cpp under each name. A name is taken where every id
is the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from converters.tokenizer.metadata import GgufTokenizer, Vocabulary
from converters.tokenizer.trial_texts import trial_texts
from turbopilot.base.errors import TokenizerMismatch

_PATIENCE: Final = 600.0  # seconds for one child; 30 names and 150,000 tokens take 40


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One name: how many texts and ids came out alike, and the first text that did not."""

    name: str
    n_texts: int
    n_ids: int
    text: str = ""
    ours: tuple[int, ...] = ()
    theirs: tuple[int, ...] = ()
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

    def words(ids: tuple[int, ...]) -> str:
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
                "names": names,
                "normalizer": vocabulary.normalizer, "space_prefix": vocabulary.space_prefix,
                "added": [[t.text, t.special, t.normalized] for t in vocabulary.beside],
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
    """Run one child. None where it did not get as far as llama.cpp, with its last words."""
    root = Path(__file__).resolve().parents[2]
    env = {
        **os.environ,
        "GGML_NO_BACKTRACE": "1",  # where llama.cpp aborts, it would call gdb on itself
        "PYTHONPATH": os.pathsep.join(
            [str(root), *(str(Path(p).resolve()) for p in sys.path if p)]
        ),
    }
    command = [sys.executable, "-m", "converters.tokenizer.trial_child"]
    outcomes: list[_Outcome] = []
    started, late = False, ""
    with tempfile.TemporaryFile() as stderr, subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=env, encoding="utf-8",
        cwd=root,  # `python -m` looks there first, and the user's may be a checkpoint that holds a tokenizers.py
    ) as process:  # fmt: skip
        try:
            out, _ = process.communicate(json.dumps(job) + "\n", timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            late = f"it took more than {_PATIENCE:.0f} seconds"
        finally:
            process.kill()  # Ctrl-C lands here
        stderr.seek(0)
        words = stderr.read().decode("utf-8", "replace").strip().splitlines()
    for line in out.splitlines():
        try:
            value = json.loads(line)
        except ValueError:  # what a dying process prints
            continue
        if isinstance(value, list):
            started = True
        elif isinstance(value, dict):
            outcomes.append(
                _Outcome(
                    value["name"],
                    value["n_texts"],
                    value["n_ids"],
                    value.get("text", ""),
                    tuple(value.get("ours", ())),
                    tuple(value.get("theirs", ())),
                    "text" in value,
                )
            )
            if value["n_texts"] == n_texts:
                break
    return (outcomes if started else None), late or (words[-1] if words else "it said nothing")[
        :300
    ]
