"""Whose tokens a plugin must write for a model, by the model's name. Data; knows no plugin's settings."""

from __future__ import annotations

from typing import Final, NamedTuple


class Family(NamedTuple):
    """Models with the same tokens for fill-in-the-middle.

    Attributes:
        part: of their names, in small letters.
        zed: Zed's name of the format.
        twinny: Twinny's name of the template.
        prefix: the token before the text before the cursor.
        suffix: the token before the text after it.
        middle: the token after both.
    """

    part: str
    zed: str
    twinny: str
    prefix: str
    suffix: str
    middle: str


# Names of formats: Zed's docs/src/ai/edit-prediction.md, Twinny's src/common/constants/models.ts.
STARCODER: Final = Family(
    "starcoder", "star_coder", "starcoder", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"
)
FAMILIES: Final[tuple[Family, ...]] = (
    STARCODER,
    Family("qwen", "qwen", "codeqwen", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    Family("codellama", "code_llama", "codellama", "<PRE>", "<SUF>", "<MID>"),
    Family(
        "deepseek",
        "deepseek_coder",
        "deepseek",
        "<｜fim▁begin｜>",
        "<｜fim▁hole｜>",
        "<｜fim▁end｜>",
    ),
)


def family_of(model: str) -> Family:
    """The model's; StarCoder's, which most others took over, where the name tells nothing.

    >>> family_of("Qwen2.5-Coder-1.5B").zed
    'qwen'
    >>> family_of("codegen").twinny
    'starcoder'
    """
    return next((f for f in FAMILIES if f.part in model.lower()), STARCODER)
