"""Layouts of fill-in-the-middle prompts, as the authors of the models write them.

In a template, `{prefix}` and `{suffix}` stand for the text before and after the cursor, `{files}` for other files,
`{repository}` and `{name}` for their names, and `{text}` for a file's text. Each name in angle or square brackets is
one token of the vocabulary, in the vocabulary's spelling (`▁` is SentencePiece's space). A new model whose layout is
not here is one more entry of `LAYOUTS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Other files for models without tokens for them: a comment line with the name, then the text.
AS_COMMENTS: Final = "# {name}\n{text}\n\n"


@dataclass(frozen=True, slots=True)
class FimLayout:
    """A layout.

    Attributes:
        name: name for `--fim-layout` and the catalogue.
        infill: the prompt.
        models: models that were trained on it.
        source: its documentation.
        project: the prompt with other files; "" for the files, then `infill`. Without its tokens, `{files}` are
            comments in front of `infill`.
        file: one of the other files; trailing white space of its text is removed.
        names_lone_file: whether `project` is also the prompt for a file without other files, if its name is known.
        stops: tokens that end a completion, in addition to those of the layout. Missing ones are ignored.
        signs: more tokens of these models, which distinguish them from others with the same layout tokens.
    """

    name: str
    infill: str
    models: str
    source: str
    project: str = ""
    file: str = AS_COMMENTS
    names_lone_file: bool = False
    stops: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()


_UNDERSCORE: Final = "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>"
_UNDERSCORE_SPM: Final = "<fim_prefix><fim_suffix>{suffix}<fim_middle>{prefix}"
_STARCODER_FILES: Final = "<reponame>{repository}\n{files}<filename>{name}\n"
_BAR: Final = "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"
# Bavarian et al. (arXiv:2207.14255) name the orders: PSM is prefix, suffix, middle; SPM is suffix, prefix, middle. In
# their variant of SPM, which these models were trained on, both tokens stand in front of the suffix.
_SPM_SOURCE: Final = "bigcode-project/Megatron-LM, megatron/data/gpt_dataset.py, `permute`"

# If a vocabulary has the tokens of several layouts, the one with the most tokens is used, and of several the first.
LAYOUTS: Final = (
    FimLayout(
        "starcoder", _UNDERSCORE, "StarCoder, StarCoderPlus, WizardCoder, stable-code-3b",
        "card of bigcode/starcoder; the tokens before other files: arXiv:2305.06161",
        project=_STARCODER_FILES + _UNDERSCORE, file="<filename>{name}\n{text}\n", stops=("<fim_pad>",),
    ),
    FimLayout(
        "starcoder-spm", _UNDERSCORE_SPM, "StarCoder, StarCoderPlus, Granite Code", _SPM_SOURCE,
        project=_STARCODER_FILES + _UNDERSCORE_SPM, file="<filename>{name}\n{text}\n", stops=("<fim_pad>",),
    ),
    FimLayout(
        "starcoder2", _UNDERSCORE, "StarCoder2", "arXiv:2402.19173, section 5.1",
        project="<repo_name>{repository}{files}<file_sep>"
        "<fim_prefix>{name}\n{prefix}<fim_suffix>{suffix}<fim_middle>",
        file="<file_sep>{name}\n{text}\n", stops=("<fim_pad>",),
    ),
    FimLayout(
        "refact", _UNDERSCORE, "Refact-1.6B", "card of smallcloudai/Refact-1_6B-fim", stops=("<fim_pad>",),
    ),
    FimLayout(
        "granite", _UNDERSCORE, "Granite Code, Granite 3", "llama.cpp, src/llama-vocab.cpp", stops=("<fim_pad>",),
    ),
    FimLayout(
        "mellum", "<fim_suffix>{suffix}<fim_prefix>{prefix}<fim_middle>", "Mellum-4b",
        "card of JetBrains/Mellum-4b-base; arXiv:2510.05788",
        project="{files}<filename>{name}\n<fim_suffix>{suffix}<fim_prefix>{prefix}<fim_middle>",
        file="<filename>{name}\n{text}\n", names_lone_file=True, stops=("<fim_pad>", "<reponame>"),
        signs=("<user>", "<assistant>"),
    ),
    FimLayout(
        "santacoder", "<fim-prefix>{prefix}<fim-suffix>{suffix}<fim-middle>", "SantaCoder",
        "card of bigcode/santacoder", stops=("<fim-pad>",),
    ),
    FimLayout(
        "santacoder-spm", "<fim-prefix><fim-suffix>{suffix}<fim-middle>{prefix}", "SantaCoder",
        f"arXiv:2301.03988; {_SPM_SOURCE}", stops=("<fim-pad>",),
    ),
    FimLayout(
        "qwen", _BAR, "Qwen2.5-Coder, Qwen3-Coder", "README of QwenLM/Qwen2.5-Coder; arXiv:2409.12186",
        project="<|repo_name|>{repository}\n{files}<|file_sep|>{name}\n" + _BAR,
        file="<|file_sep|>{name}\n{text}\n", stops=("<|fim_pad|>",),
    ),
    FimLayout(
        "codegemma", _BAR, "CodeGemma", "ai.google.dev/gemma/docs/codegemma/prompt-structure",
        project="{files}" + _BAR, file="# {name}\n{text}\n<|file_separator|>",
    ),
    FimLayout(
        "deepseek", "<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>", "DeepSeek-Coder, DeepSeek-Coder-V2",
        "README of deepseek-ai/DeepSeek-Coder; files begin with a comment, and a whole project is one document: "
        "arXiv:2401.14196, section 2.2",
        project="<｜fim▁begin｜>{files}#{name}\n{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",
        file="#{name}\n{text}\n\n",
    ),
    FimLayout(
        "codellama", "▁<PRE>{prefix}▁<SUF>{suffix}▁<MID>", "CodeLlama 7B and 13B",
        "meta-llama/codellama, llama/generation.py, `infilling_prompt_tokens`", stops=("▁<EOT>",),
    ),
    FimLayout(
        "codellama-spm", "▁<PRE>▁<SUF>{suffix}▁<MID>{prefix}", "CodeLlama 7B and 13B",
        "meta-llama/codellama, llama/generation.py, `infilling_prompt_tokens` with `suffix_first`", stops=("▁<EOT>",),
    ),
    FimLayout(
        "glm", "<|code_prefix|>{prefix}<|code_suffix|>{suffix}<|code_middle|>", "GLM-4.5",
        "zed-industries/zed, crates/edit_prediction/src/fim.rs",
    ),
    FimLayout(
        "seed-coder", "<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<[fim-middle]>", "Seed-Coder-8B",
        "arXiv:2506.03524, section 2.2; card of ByteDance-Seed/Seed-Coder-8B-Base",
    ),
    FimLayout(
        "codestral", "[SUFFIX]{suffix}[PREFIX]{prefix}", "Codestral-22B",
        "mistralai/mistral-common, `encode_fim`; other files: continuedev/continue, AutocompleteTemplate.ts",
        project="[SUFFIX]{suffix}[PREFIX]{files}+++++ {name}\n{prefix}", file="+++++ {name} \n{text}\n\n",
        stops=("[MIDDLE]",),
    ),
)  # fmt: skip
# Layouts of the ids that a GGUF names for its roles, whatever the tokens are called (see `serve.prompt.layout_choice`).
ROLE_LAYOUTS: Final = (
    FimLayout(
        "psm", "<PRE>{prefix}<SUF>{suffix}<MID>", "files with FIM ids",
        "llama.cpp, tools/server/server-common.cpp, `format_prompt_infill`",
    ),
    FimLayout("spm", "<PRE><SUF>{suffix}<MID>{prefix}", "files with FIM ids", "arXiv:2207.14255"),
)  # fmt: skip
NAMES: Final = tuple(layout.name for layout in (*ROLE_LAYOUTS, *LAYOUTS))
