"""Choice of a model's fill-in-the-middle layout: by the user, the file, the catalogue, or the names of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from serve.prompt.bound_layout import (
    BoundLayout,
    FimLayouts,
    bind,
    find_id,
    missing_tokens,
    tokens_of,
)
from serve.prompt.layouts import LAYOUTS, ROLE_LAYOUTS, FimLayout
from turbopilot.base.errors import InvalidInput
from turbopilot.formats.gguf.cursor import Value
from turbopilot.formats.gguf.metadata import FIM_ORDER_KEY, TypedMetadata

# Placeholder in `ROLE_LAYOUTS` → names in the keys of a GGUF, the newest first.
# Source: llama.cpp, src/llama-arch.cpp, LLM_KV_TOKENIZER_FIM_PRE_ID and so on.
_ROLES: Final[Mapping[str, tuple[str, ...]]] = {
    "<PRE>": ("fim_pre", "prefix"), "<SUF>": ("fim_suf", "suffix"), "<MID>": ("fim_mid", "middle"),
    "<REP>": ("fim_rep",), "<SEP>": ("fim_sep",),
}  # fmt: skip
_NAMES: Final = frozenset(
    name
    for layout in LAYOUTS
    for template in (layout.infill, layout.project, layout.file)
    for token in (*tokens_of(template), *layout.stops, *layout.signs)
    for name in (token, token.removeprefix("▁"))
)


@dataclass(frozen=True, slots=True)
class FimVocabulary:
    """The tokens of a GGUF that matter for fill-in-the-middle.

    Attributes:
        texts: text of each token.
        ids: name → id, of tokens in `LAYOUTS`.
        roles: placeholder in `ROLE_LAYOUTS` → id, of the file's keys.
        order: the order of prefix and suffix that the file names: "psm", "spm" or "".
    """

    texts: Sequence[str]
    ids: Mapping[str, int]
    roles: Mapping[str, int]
    order: str

    @classmethod
    def read(cls, metadata: Mapping[str, Value]) -> FimVocabulary:
        """Read the metadata of a GGUF; values of the wrong type are ignored."""
        said = TypedMetadata(metadata)
        texts = said.many("tokenizer.ggml.tokens", str)
        roles: dict[str, int] = {}
        for role, keys in _ROLES.items():
            found = (said.get(f"tokenizer.ggml.{key}_token_id", int) for key in keys)
            valid = [token for token in found if token is not None and 0 <= token < len(texts)]
            if valid:
                roles[role] = valid[0]
        ids = {text: i for i, text in enumerate(texts) if text in _NAMES}
        return cls(texts, ids, roles, said.text(FIM_ORDER_KEY))

    def usable(self) -> dict[str, BoundLayout]:
        """Return the layouts whose tokens the vocabulary has, by name: those with the most tokens first."""
        named = [layout for layout in LAYOUTS if not missing_tokens(layout.infill, self.ids)]
        named.sort(key=self._n_tokens, reverse=True)
        bound = [bind(layout, self.ids, self.texts) for layout in named]
        roles = {**next(map(_roles_in, bound), {}), **self.roles}
        for layout in ROLE_LAYOUTS:
            if not missing_tokens(layout.infill, roles):
                bound.append(bind(_with_files(layout, roles), roles, self.texts))
        return {layout.name: layout for layout in bound}

    def _n_tokens(self, layout: FimLayout) -> int:
        names = {*tokens_of(layout.infill + layout.project + layout.file), *layout.signs}
        return sum(find_id(name, self.ids) is not None for name in names)


def _roles_in(layout: BoundLayout) -> dict[str, int]:
    """Return the tokens before the prefix, the suffix and the completion."""
    parts = layout.infill
    places = {
        "<PRE>": parts.index("{prefix}"),
        "<SUF>": parts.index("{suffix}"),
        "<MID>": len(parts),
    }
    before = {role: parts[at - 1] for role, at in places.items()}
    return {role: part for role, part in before.items() if isinstance(part, int)}


def _with_files(layout: FimLayout, roles: Mapping[str, int]) -> FimLayout:
    """Return a layout of `ROLE_LAYOUTS` with the file's tokens for repository and files, if it has them."""
    if "<SEP>" not in roles:
        return layout
    repository = "<REP>{repository}\n" if "<REP>" in roles else ""
    project = f"{repository}{{files}}<SEP>{{name}}\n{layout.infill}"
    return replace(layout, project=project, file="<SEP>{name}\n{text}\n")


def choose_layouts(
    metadata: Mapping[str, Value], *, wanted: str | None = None, known: str = "", file: str = ""
) -> FimLayouts | None:
    """Return the layouts of a model; None if its vocabulary has no tokens for any.

    Args:
        metadata: metadata of its GGUF.
        wanted: name of a layout; None chooses one: the order that the file names, then `known`, then the layout with
            the most tokens in the vocabulary, then "psm" with the ids that the file names.
        known: name of the layout in the catalogue; "" if unknown.
        file: name of the file, for errors.

    Raises:
        InvalidInput: the vocabulary lacks a token of the wanted layout.
    """
    vocabulary = FimVocabulary.read(metadata)
    usable = vocabulary.usable()
    if wanted and wanted not in usable:
        raise _unusable(wanted, vocabulary, list(usable), file)
    names = (wanted, vocabulary.order, known, *usable)
    chosen = next((usable[name] for name in names if name in usable), None)
    if chosen is None:
        return None
    distinct = {layout.infill: layout for layout in (*reversed(usable.values()), chosen)}
    known_layouts = sorted(distinct.values(), key=lambda layout: not layout.joined)
    return FimLayouts(chosen, tuple(known_layouts))


def _unusable(
    wanted: str, vocabulary: FimVocabulary, usable: Sequence[str], file: str
) -> InvalidInput:
    """Return the error for a layout whose tokens the vocabulary lacks."""
    named = {layout.name: layout for layout in LAYOUTS}
    if wanted in named:
        lacking = missing_tokens(named[wanted].infill, vocabulary.ids)[0].removeprefix("▁")
        reason = f"has no token {lacking}"
    else:
        reason = "names no tokens for prefix, suffix and middle"
    hint = "leave out --fim-layout: this model has no tokens for fill-in-the-middle"
    if usable:
        hint = f"leave out --fim-layout, or use one whose tokens it has: {', '.join(usable)}"
    return InvalidInput(f"--fim-layout {wanted}: {file or 'the model file'} {reason}", hint=hint)
