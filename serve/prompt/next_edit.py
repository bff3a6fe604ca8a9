"""Formats of next-edit models: models that rewrite the lines around the cursor, considering recent changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from serve.prompt import instinct, sweep, zeta
from serve.prompt.chat_template import Message
from serve.prompt.edit_state import EditState, Region


@dataclass(frozen=True, slots=True)
class FramedEdit:
    """A prompt for the lines around the cursor.

    Attributes:
        prompt: text, or messages for the model's chat template.
        lines: the lines to rewrite.
        prefill: beginning of the new lines that is part of the prompt.
    """

    prompt: str | tuple[Message, ...]
    lines: Region
    prefill: str


@dataclass(frozen=True, slots=True)
class NextEditFormat:
    """Prompt format of next-edit models.

    Attributes:
        name: value of `--next-edit-format`.
        models: pattern of the names of its models, matched in lower case.
        stops: stop strings. The models' end-of-generation tokens end their output as well.
        region: returns the lines to rewrite.
        prompt: returns the prompt for these lines.
        rewritten: returns the new lines in the model's output.
        prefill: returns the beginning of the new lines that the prompt ends with.
    """

    name: str
    models: str
    stops: tuple[str, ...]
    region: Callable[[EditState], Region]
    prompt: Callable[[EditState, Region], str | tuple[Message, ...]]
    rewritten: Callable[[str, Region], str]
    prefill: Callable[[EditState, Region], str] = lambda state, lines: ""

    def frame(self, state: EditState) -> FramedEdit:
        """Return the prompt for the lines around the cursor."""
        lines = self.region(state)
        return FramedEdit(self.prompt(state, lines), lines, self.prefill(state, lines))


_SEED_STOPS: Final = (zeta.SUFFIX, zeta.PREFIX, zeta.MIDDLE)
FORMATS: Final = {
    f.name: f
    for f in (
        NextEditFormat(
            "sweep", r"sweep-next-edit", (sweep.SECTION, "<|endoftext|>"),
            sweep.region, sweep.prompt, sweep.rewritten, sweep.prefill,
        ),
        NextEditFormat(
            "zeta2.1", r"zeta-?2[._]1", ("<[end▁of▁sentence]>", *_SEED_STOPS),
            zeta.region, zeta.zeta21_prompt, zeta.zeta21_rewritten,
        ),
        NextEditFormat(
            "zeta2", r"zeta-?2(?![._]\d)", (zeta.UPDATED, *_SEED_STOPS),
            zeta.region, zeta.zeta2_prompt, zeta.zeta2_rewritten,
        ),
        NextEditFormat(
            "zeta", r"zeta(?!-?[2-9])", (zeta.ZETA_END,),
            zeta.region, zeta.zeta_prompt, zeta.zeta_rewritten,
        ),
        NextEditFormat(
            "instinct", r"instinct", (zeta.ZETA_END,),
            instinct.region, instinct.prompt, instinct.rewritten,
        ),
    )
}  # fmt: skip
FORMAT_NAMES: Final = tuple(FORMATS)


def recognize(*names: str) -> str:
    """Return the name of the format of a model with one of these names; "" if none is known.

    >>> recognize("my model", "sweep-next-edit-1.5b.q8_0.v2")
    'sweep'
    >>> [recognize(n) for n in ("zed-industries_zeta-2-Q8_0", "zeta2.1", "zeta", "codegen", "beta-zetac")]
    ['zeta2', 'zeta2.1', 'zeta', '', '']
    """
    for name in names:
        for form in FORMATS.values():
            if re.search(rf"(?<![a-z]){form.models}(?![a-z])", name.lower()):
                return form.name
    return ""
