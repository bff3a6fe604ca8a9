"""Chat templates: the catalogue's templates, and the choice of a template for a model file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serve.llama.facts import chat_template
from serve.prompt.chat_template import ChatTemplate, Message
from serve.settings import ModelChoice, ServerOptions
from turbopilot.app.served_models import with_models
from turbopilot.base.progress import Reporter
from turbopilot.catalog import MODELS, find, known_template, recognize
from turbopilot.formats.gguf.edit import set_metadata
from turbopilot.formats.gguf.file import read_gguf

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


def prompt(alias: str, *said: tuple[str, str]) -> str:
    model = find(alias)
    assert model
    return ChatTemplate(model.chat_template).prompt([Message(*s) for s in said])


def test_wizardcoder_prompt_format() -> None:
    assert prompt("wizardcoder-15b", (USER, "sort a list")) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nsort a list\n\n### Response:"
    )
    longer = prompt("wizardcoder-15b", (SYSTEM, "S."), (USER, "a"), (ASSISTANT, "b"), (USER, "c"))
    assert longer == (
        "S.\n\n### Instruction:\na\n\n### Response:b\n\n### Instruction:\nc\n\n### Response:"
    )


def test_stablecode_prompt_format() -> None:
    alias = "stablecode-instruct-alpha-3b"
    assert prompt(alias, (USER, "sort")) == "###Instruction\nsort###Response\n"
    said = ((SYSTEM, "S."), (USER, "a"), (ASSISTANT, "b"), (USER, "c"))
    assert prompt(alias, *said) == (
        "###Instruction\nS.\na###Response\nb\n###Instruction\nc###Response\n"
    )


@pytest.mark.parametrize("model", [m for m in MODELS if m.chat_template], ids=lambda m: m.alias)
def test_old_bin_file_name_is_recognized(model: object) -> None:
    from turbopilot.catalog import KnownModel

    assert isinstance(model, KnownModel)
    assert model.old_bin
    assert recognize(model.old_bin.file.removesuffix(".bin")) == model


def test_unknown_file_names_are_not_recognized() -> None:
    for name in ("", "x", "my-wizardcoder", "tiny"):
        assert recognize(name) is None
    assert recognize("wizardcoder-15b-v1.0.Q4_K_M") == find("wizardcoder-15b")
    starcoder = find("starcoder")
    assert starcoder
    assert recognize("anything", starcoder.url + "/") == starcoder


def test_file_without_template_gets_the_catalogue_template(demo_gguf: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(demo_gguf, tmp_path / "a.gguf"))
    wizard = find("wizardcoder-15b")
    assert wizard
    assert known_template(read_gguf(file)) == ""
    set_metadata(file, {"general.name": "WizardCoder-15B-V1.0-tuned"})
    choice = ModelChoice(str(demo_gguf), named=(f"wizard={file}",))
    options = with_models(ServerOptions(demo_gguf), choice, Reporter())
    assert options.model.chat_template == ""
    (served,) = options.more
    assert served.chat_template == wizard.chat_template
    assert options.of(served).model.chat_template == wizard.chat_template
    options = with_models(ServerOptions(file), ModelChoice(str(file)), Reporter())
    assert options.model.chat_template == wizard.chat_template
    assert chat_template(read_gguf(file), wizard.chat_template) == wizard.chat_template
    set_metadata(file, {"tokenizer.chat_template": "own"})
    assert chat_template(read_gguf(file), wizard.chat_template) == "own"
