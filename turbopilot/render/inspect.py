"""Output of `turbopilot inspect`: descriptions as lines, tables and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turbopilot.app import certificates as certified
from turbopilot.base.counts import count
from turbopilot.base.sizes import size
from turbopilot.formats.gguf.certificate import State
from turbopilot.formats.gguf.description import (
    FilePart,
    GgufDescription,
    Shape,
    SpecialToken,
    TokenizerLine,
)
from turbopilot.formats.gguf.metadata import Quantized
from turbopilot.render import console
from turbopilot.render.table import TableColumns

if TYPE_CHECKING:
    from converters.inspect import CheckpointDescription
    from turbopilot.app.inspection import Description

_WIDE = 100  # maximum characters to show of a value
_LABEL = 13  # width of a label
_LISTED = 8  # elements to show of an array


def plain(found: Description, state: State) -> dict[str, Any]:
    """Return the whole description as JSON values; `state` is the certificate's state."""
    whole = asdict(replace(found, metadata={}))
    if found.kind == "gguf":
        whole["certificate"] = {"state": state, **(whole["certificate"] or {})}
    values: dict[str, Any] = _plain({"kind": found.kind, **whole, "metadata": _metadata(found)})
    return values


def show(found: Description, state: State, *, tensors: bool, metadata: bool) -> None:
    """Print the description, one fact per line; `state` is the certificate's state."""
    console.result(f"{found.path}: {_headline(found)}")
    for label, text in _facts(found, state):
        if text:
            console.result(f"{label:<{_LABEL}} {text}")
    if found.types:
        rows = [
            [s.type, f"{s.n_tensors:,}", f"{s.n_weights:,}", size(s.n_bytes), f"{s.share:.1%}"]
            for s in found.types
        ]  # fmt: skip
        console.table("", TableColumns(("type", "tensors", "weights", "size", "share")), rows)
    if tensors:
        _tensors(found)
    if metadata:
        for key, value in _metadata(found).items():
            console.result(f"{key} = {_value(value)}")


def _tensors(found: Description) -> None:
    """Print every tensor, with its file if there are several."""
    many = len({t.file for t in found.tensors}) > 1
    rows = [
        [t.name, " × ".join(map(str, t.shape)) or "1", t.type, f"{t.n_bytes:,}", f"{t.offset:,}"]
        + ([t.file] if many else [])
        for t in found.tensors
    ]
    headings = ["tensor", "shape", "type", "bytes", "offset", *(["file"] if many else [])]
    columns = TableColumns(
        headings, left=("shape", "type", "file"), optional=("offset", "file", "shape")
    )
    console.result("")
    console.table("", columns, rows)


def _metadata(found: Description) -> Mapping[str, Any]:
    """Return the metadata, with long arrays replaced by their length and first elements."""
    return {
        key: {"length": len(value), "first": value[:_LISTED]}
        if isinstance(value, list) and len(value) > _LISTED
        else value
        for key, value in found.metadata.items()
    }


def _value(of: Any) -> str:
    """Return a metadata value on one line."""
    if isinstance(of, dict) and set(of) == {"length", "first"}:
        elements = ", ".join(json.dumps(v, ensure_ascii=False) for v in of["first"])
        return f"{of['length']:,} × {_cut(elements)}"
    return _cut(json.dumps(of, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= _WIDE else f"{text[:_WIDE]}… ({len(text):,} characters)"


def _plain(value: Any) -> Any:
    """Return the value in JSON's types; paths, NaN, infinities and invalid UTF-8 become strings."""
    if isinstance(value, dict):
        return {_plain(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (str, Path)):
        return str(value).encode("utf-8", "replace").decode("utf-8")
    return value


def _headline(found: Description) -> str:
    shape = f"{found.n_weights / 1e6:,.1f} million weights, {size(found.n_bytes)}"
    if isinstance(found, GgufDescription):
        return f"GGUF version {found.version}, {found.main_type}, {shape}, {found.bits_per_weight:.2f} bits/weight"
    what = found.kind if found.kind == "checkpoint" else f"{found.kind} file"
    return f"{what}, {count(len(found.tensors), 'tensor')}, {shape}"


def _facts(found: Description, state: State) -> Iterator[tuple[str, str]]:
    """Yield labels and texts; the text of an unknown fact is ""."""
    if isinstance(found, GgufDescription):
        yield from _gguf(found)
        if found.certificate:
            yield from certified.lines(found.path, found.certificate, state)
    elif not hasattr(found, "format"):
        yield from _checkpoint(found)


def _gguf(g: GgufDescription) -> Iterator[tuple[str, str]]:
    made_from = f", from {g.origin.architecture}" if g.origin.architecture else ""
    yield "architecture", f"{g.architecture or 'unknown'}{made_from}"
    yield "name", g.name
    if g.adapter:
        ranks = " and ".join(f"{r:,}" for r in g.adapter.ranks)
        alpha = f", alpha {g.adapter.alpha:g}" if g.adapter.alpha is not None else ""
        changes = count(g.adapter.n_matrices, "tensor")
        yield "adapter", f"{g.adapter.type} of rank {ranks}{alpha}; changes {changes} of a model"
    else:
        yield from _shape(g.shape)
        yield from _tokenizer(g.tokenizer)
    yield from _origin(
        g.origin.license, g.origin.repository, g.origin.revision, g.origin.base_models
    )
    yield "converted by", f"turbopilot {g.origin.turbopilot}" if g.origin.turbopilot else ""
    for i, file in enumerate(g.origin.files):
        yield "" if i else "made from", f"{file.sha256}  {file.name}"
    if g.quantized:
        yield from _quantized(g.quantized)
    yield from _parts("parts", g.parts)


def _quantized(q: Quantized) -> Iterator[tuple[str, str]]:
    yield "quantized by", f"turbopilot {q.turbopilot}, llama-cpp-python {q.llama_cpp}"
    for i, digest in enumerate(q.source_sha256):
        yield "" if i else "from", f"{digest}  {'' if i else q.source}"
    if q.imatrix_sha256:
        yield "imatrix", f"{q.imatrix_sha256}  {q.imatrix}"
    limits = [size(q.memory)] if q.memory else []
    limits += [f"{size(n)} of GPU memory" for n in q.device_memory]
    if limits:
        kl = f", KL {q.predicted_kl} predicted" if q.predicted_kl else ""
        yield "made to fit", f"{' and '.join(limits)} with {q.n_ctx:,} tokens of context{kl}"


def _checkpoint(c: CheckpointDescription) -> Iterator[tuple[str, str]]:
    names = ", ".join(c.architectures) or "unknown"
    yield "architecture", f"{names} (model type {c.model_type})" if c.model_type else names
    yes = (
        f"yes, to {c.gguf_architecture} (to check the tokenizer too: turbopilot convert --dry-run)"
    )
    yield "convertible", yes if c.convertible else f"no: {c.reason}"
    yield "hint", c.hint
    yield "quantized", c.quantized or "no"
    yield from _shape(c.shape)
    yield "tokenizer", ", ".join(c.tokenizer_files) or "none"
    yield from _origin(c.license, c.repository, c.revision, c.base_models)
    dropped = f"{count(len(c.dropped), 'tensor')} without information"
    yield "dropped", dropped if c.dropped else ""
    yield from _parts("files", c.files)


def _shape(s: Shape) -> Iterator[tuple[str, str]]:
    if s.n_layer is not None or s.n_embd is not None:
        heads = f"{_each(s.n_head, 'head')}, {_each(s.n_head_kv or s.n_head, 'key/value head')}"
        layers, width = _each(s.n_layer, "layer"), _each(s.n_embd)
        yield "shape", f"{layers}, {width} wide, {heads}, feed-forward {_each(s.n_inner)}"
    yield "context", f"{s.n_ctx:,}" if s.n_ctx is not None else ""
    yield "vocabulary", count(s.n_vocab, "row") if s.n_vocab is not None else ""
    rope = [f"{s.rotary_dim} dimensions"] if s.rotary_dim is not None else []
    rope += [f"base {s.rope_theta:g}"] if s.rope_theta is not None else []
    if s.rope_scaling:
        rope += [f"{s.rope_scaling} scaling" + (f" by {s.rope_factor:g}" if s.rope_factor else "")]
    yield "rope", ", ".join(rope)


def _each(n: int | list[int] | None, noun: str = "") -> str:
    """Return a number, or the range of the layers' numbers, with its noun."""
    if isinstance(n, int) and noun:
        return count(n, noun)
    shown = f"{min(n):,}–{max(n):,}" if isinstance(n, list) else "?" if n is None else f"{n:,}"
    return f"{shown} {noun}s" if noun else shown


def _tokenizer(t: TokenizerLine) -> Iterator[tuple[str, str]]:
    if not t.model:
        yield "tokenizer", "none"
        return
    pre = f", pre-tokenizer {t.pre}" if t.pre else ""
    why = f" ({t.pre_origin})" if t.pre_origin else ""
    used = f", {t.n_used:,} of them used" if t.n_used != t.n_tokens else ""
    yield "tokenizer", f"{t.model}{pre}{why}, {t.n_tokens:,} tokens{used}"
    if t.add_bos is not None:
        yield "BOS", "added to prompts" if t.add_bos else "not added to prompts"
    yield "special", _tokens(t.special)
    if t.fim:
        yield "FIM", ("yes: " if t.has_fim else "incomplete: ") + _tokens(t.fim)
    else:
        yield "FIM", "yes, by the names of its tokens" if t.fim_layout else "no"
    yield "FIM layout", t.fim_layout
    yield "chat template", ", ".join(t.chat_templates) or "no"


def _tokens(tokens: Sequence[SpecialToken]) -> str:
    return ", ".join(
        f"{t.role} {t.id} {'outside the vocabulary' if t.text is None else json.dumps(t.text, ensure_ascii=False)}"
        for t in tokens
    )


def _origin(
    license: str, repository: str, revision: str, bases: Sequence[str]
) -> Iterator[tuple[str, str]]:
    yield "licence", license or "unknown"
    yield "source", f"{repository}{' at ' if repository and revision else ''}{revision}"
    yield "base model", ", ".join(bases)


def _parts(label: str, parts: Sequence[FilePart]) -> Iterator[tuple[str, str]]:
    for i, part in enumerate(parts):
        text = f"{part.file}, {count(part.n_tensors, 'tensor')}, {size(part.n_bytes)}"
        yield "" if i else label, text
