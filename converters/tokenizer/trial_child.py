"""The process that tries: cuts texts with tokenizers, then with llama.cpp, and says where they differ.

A process of its own because llama.cpp ends its own on some vocabularies, and because a hostile expression
can keep tokenizers busy for ever. Started by `converters.tokenizer.trial`; the only module of converters
that imports tokenizers and llama_cpp.

A job comes in as one line of JSON: {"tokenizer": path, "vocabulary": path, "texts": path, "names": [...],
"normalizer": str, "space_prefix": str, "added": [[text, special, normalized], ...]}.
A line of JSON goes out for the reference, [n_ids], and one for each name:
{"name", "n_texts", "n_ids"} of what is alike, and where a text differs "text", "ours", "theirs" as well.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

_OVERRIDE_STRING = 3  # enum llama_model_kv_override_type, LLAMA_KV_OVERRIDE_TYPE_STR


def main() -> None:
    """Do the job that stands on stdin."""
    job = json.loads(sys.stdin.readline())
    texts: list[str] = json.loads(Path(job["texts"]).read_text("utf-8"))
    lib = _llama_cpp()
    wanted = _reference(job["tokenizer"], job["added"], texts)
    _say([sum(map(len, wanted))])
    shown = [unicodedata.normalize(job["normalizer"], t) if job["normalizer"] else t for t in texts]
    if job["space_prefix"] in ("always", "first"):
        # Metaspace puts no space where there is one; llama.cpp always does
        shown = [t[1:] if t.startswith(" ") and len(t) > 1 else t for t in shown]
    for name in job["names"]:
        outcome = _try(lib, job["vocabulary"], name, shown, wanted)
        _say({"name": name, **outcome})
        if outcome["n_texts"] == len(texts):
            break


def _reference(path: str, added: list[tuple[str, bool, bool]], texts: list[str]) -> list[list[int]]:
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_tokens([AddedToken(t, special=s, normalized=n) for t, s, n in added])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def _llama_cpp() -> Any:
    import llama_cpp

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def silent(level: int, text: bytes, data: Any) -> None: ...

    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    llama_cpp.turbopilot_log = silent  # C holds no reference: a collected callback ends the process
    llama_cpp.llama_backend_init()
    return llama_cpp


def _try(
    lib: Any, path: str, name: str, texts: list[str], wanted: list[list[int]]
) -> dict[str, Any]:
    """Cut the texts under one name, up to the first that comes out otherwise."""
    overrides = (lib.llama_model_kv_override * 2)()  # the second, empty, ends the list
    overrides[0].tag = _OVERRIDE_STRING
    overrides[0].key = b"tokenizer.ggml.pre"
    overrides[0].value.val_str = name.encode()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    params.kv_overrides = overrides
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        return {"n_texts": 0, "n_ids": 0}
    vocab, n_ids = lib.llama_model_get_vocab(model), 0
    try:
        for i, (text, ids) in enumerate(zip(texts, wanted, strict=True)):
            theirs = _tokenize(lib, vocab, text)
            if theirs != ids:
                return {"n_texts": i, "n_ids": n_ids, "text": text, "ours": ids, "theirs": theirs}
            n_ids += len(ids)
    finally:
        lib.llama_model_free(model)
    return {"n_texts": len(texts), "n_ids": n_ids}


def _tokenize(lib: Any, vocab: Any, text: str) -> list[int]:
    data = text.encode()
    room = len(data) + 16  # a token is at least one byte of text
    buffer = (lib.llama_token * room)()
    n = int(lib.llama_tokenize(vocab, data, len(data), buffer, room, False, True))
    return list(buffer[: max(0, n)])


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # llama.cpp has nothing left that wants tidying
