"""Chat templates: the catalogue's templates, and the choice of a template for a model file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from serve.llama.facts import chat_template
from serve.model_choice import ModelChoice
from serve.prompt.chat_template import ChatTemplate, Message
from serve.settings import ServerOptions
from turbopilot.app.served_models import with_models
from turbopilot.base.errors import InvalidRequest, Overloaded
from turbopilot.base.progress import Reporter
from turbopilot.catalog import MODELS, find, recognize, recognize_file
from turbopilot.formats.gguf.edit import set_metadata
from turbopilot.formats.gguf.file import read_gguf

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


def prompt(alias: str, *said: tuple[str, str]) -> str:
    model = find(alias)
    assert model
    with closing(ChatTemplate(model.chat_template)) as template:
        return template.prompt([Message(*s) for s in said])


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
    assert recognize_file(read_gguf(file)) is None
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


# Templates are programs of strangers

HELLO = [Message(USER, "hello")]
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have fewer limits")


def reason_of_refusal(source: str) -> str:
    with closing(ChatTemplate(source)) as template, pytest.raises(InvalidRequest) as caught:
        template.prompt(HELLO)
    assert caught.value.param == "messages"
    return caught.value.message


@linux
@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**10 }}",  # computed by the compiler
        "{% set n = 10**10 %}{% for m in messages %}{{ m.content * n }}{% endfor %}",
        "{% set x = namespace(s='a') %}{% for i in range(60) %}{% set x.s = x.s + x.s %}{% endfor %}",
        "{{ '{:>99999999999}'.format(1) }}",
        "{% for i in range(99999) %}{{ messages[0].content * 100 }}{% endfor %}",  # 50 MB of text
    ],
)
def test_template_that_needs_too_much_memory_is_refused(source: str) -> None:
    assert "takes too much time or memory" in reason_of_refusal(source)


@linux
def test_template_that_computes_for_too_long_is_refused_and_the_next_prompt_works() -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    source = "{% if messages[0].content == 'hello' %}" + loop + "{% endif %}done"
    with closing(ChatTemplate(source, seconds=1000)) as template:
        with pytest.raises(InvalidRequest, match="takes too much time or memory"):
            template.prompt(HELLO)
        assert template.prompt([Message(USER, "be quick")]) == "done"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ 1 / 0 }}", "rejects the messages: division by zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "rejects the messages: maximum recursion"),
        ("{{ " + "(" * 1000 + "1" + ")" * 1000 + " }}", "is invalid: maximum recursion"),
        ("{{ 'x'.encode('nope') }}", "rejects the messages: unknown encoding"),
        ("{{ cycler() }}", "rejects the messages: at least one item"),
        ("{{ messages[0].x.y }}", "rejects the messages: "),
        ("{{ '%c' % 99999999999 }}", "rejects the messages: "),
        ("{{ messages.pop() }}", "rejects the messages: "),
        ("{{ 'x' | unknown }}", "is invalid: "),
        ("{% for %}", "is invalid: "),
    ],
)  # fmt: skip
def test_each_failure_of_a_template_refuses_the_request(source: str, reason: str) -> None:
    assert reason in reason_of_refusal(source)


def test_long_reason_of_a_template_is_cut() -> None:
    reason = reason_of_refusal("{{ raise_exception('no ' * 1000000) }}")
    assert "no no no" in reason
    assert len(reason) < 500


def test_filters_that_jinja_imports_on_demand_work() -> None:
    source = (
        r"{{ 'a b' | wordwrap(1) }} {{ 1 | pprint }} {{ '&amp;' | striptags }} {{ '\N{BULLET}' }}"
    )
    with closing(ChatTemplate(source)) as template:
        assert template.prompt([]) == "a\nb 1 & \N{BULLET}"


def test_process_renders_many_prompts_and_a_new_one_replaces_it_if_it_ends() -> None:
    with closing(ChatTemplate("{{ messages[0].content }}")) as template:
        texts = ["a", "\ud800", "\N{GRINNING FACE}\n" * 10**6]
        assert [template.prompt([Message(USER, t)]) for t in texts] == texts
        process = template._process
        assert process
        process.kill()
        process.wait()
        assert template.prompt(HELLO) == "hello"
    assert template._process is None


def test_process_that_does_not_answer_is_ended() -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with closing(ChatTemplate(loop, seconds=0.1)) as template:
        with pytest.raises(InvalidRequest, match="too much time"):
            template.prompt(HELLO)
        assert template._process is None


def test_requests_do_not_wait_forever_for_a_template_in_use() -> None:
    template = ChatTemplate("x", seconds=0.1)
    with template._lock, pytest.raises(Overloaded, match="busy"):
        template.prompt(HELLO)


def test_process_ends_with_the_template() -> None:
    template = ChatTemplate("x")
    template.prompt(HELLO)
    process = template._process
    assert process
    del template
    assert process.wait(60)


def test_secrets_of_the_environment_are_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []

    def start(*_: object, env: dict[str, str], **__: object) -> None:
        started.append(env)
        raise OSError(11, "no processes left")

    monkeypatch.setenv("TURBOPILOT_API_KEY", "k3y")
    monkeypatch.setenv("HF_TOKEN", "k3y")
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(Overloaded, match="no processes left"):
        ChatTemplate("x").prompt(HELLO)
    assert "k3y" not in started[0].values()


@linux
def test_process_can_open_neither_files_nor_sockets() -> None:
    attempts = """
import socket, sys
from serve.prompt.template_child import _confine
_confine()
for attempt in (lambda: open(sys.executable), socket.socket, lambda: open("/dev/null", "w"), lambda: bytes(2**30)):
    try:
        attempt()
        sys.stdout.write("done ")
    except (OSError, MemoryError) as e:
        sys.stdout.write(type(e).__name__ + " ")
"""
    done = subprocess.run(
        [sys.executable, "-c", attempts], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.split() == ["OSError", "OSError", "OSError", "MemoryError"]
