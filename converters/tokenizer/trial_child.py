"""Child process of `converters.tokenizer.trial` that compares tokenizers with llama.cpp.

A child process is needed because llama.cpp aborts on some vocabularies, and a hostile regular expression can keep
tokenizers busy forever. No other module of converters imports tokenizers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from turbopilot.base.errors import CorruptModel
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.child import run_job, send
from turbopilot.llama.model import LlamaModel, ModelParameters


def main() -> None:
    """Tokenize texts with tokenizers and, for each pre-tokenizer name, with llama.cpp; report differences.

    Reads {"tokenizer": path, "vocabulary": path, "texts": path, "names": [...], "added": [[text, special, normalized],
    ...]}. Sends {"reference": number of ids}, then for each name {"name", "n_texts", "n_ids"}, the numbers of equal
    texts and ids, and "text", "ours" and "theirs" for the first text that differs.
    """
    run_job(_try_names)


def _try_names(job: dict[str, Any]) -> None:
    texts: list[str] = json.loads(Path(job["texts"]).read_text("utf-8"))
    wanted = _reference(job["tokenizer"], job["added"], texts)
    header = read_gguf(Path(job["vocabulary"]))
    send({"reference": sum(map(len, wanted))})
    for name in job["names"]:
        outcome = _try(header, name, texts, wanted)
        send({"name": name, **outcome})
        if outcome["n_texts"] == len(texts):
            break


def _reference(path: str, added: list[tuple[str, bool, bool]], texts: list[str]) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_tokens([AddedToken(t, special=s, normalized=n) for t, s, n in added])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def _try(
    header: GgufHeader, name: str, texts: list[str], wanted: list[list[int]]
) -> dict[str, Any]:
    """Tokenize the texts with one pre-tokenizer, up to the first difference."""
    parameters = ModelParameters(vocab_only=True, overrides={"tokenizer.ggml.pre": name})
    try:
        model = LlamaModel(header, parameters)
    except CorruptModel:  # llama.cpp does not know the name
        return {"n_texts": 0, "n_ids": 0}
    n_ids = 0
    try:
        for i, (text, ids) in enumerate(zip(texts, wanted, strict=True)):
            theirs = model.tokenize(text, parse_special=True)
            if theirs != ids:
                return {"n_texts": i, "n_ids": n_ids, "text": text, "ours": ids, "theirs": theirs}
            n_ids += len(ids)
    finally:
        model.close()
    return {"n_texts": len(texts), "n_ids": n_ids}


if __name__ == "__main__":
    main()
