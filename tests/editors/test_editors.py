"""The `turbopilot editors` command: settings parse and contain the address, and each entry has its evidence."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve.settings import DEFAULT_PORT
from tests.clients.rebuilt import REBUILT
from tests.support.settings_read import parsed
from turbopilot.base.errors import InvalidInput
from turbopilot.cli import app
from turbopilot.editors import (
    DEFAULT_MODEL,
    EDITORS,
    EVIDENCE,
    FIM,
    Editor,
    Setting,
    Target,
    address_at,
    address_of,
    fill,
    find,
)

ROOT = Path(__file__).parents[2]
URLS = (
    "http://127.0.0.1:18080", "http://[::1]:18080/", "https://code.example/turbopilot/v1/", "http://box:80//",
)  # fmt: skip
# Keys that need escaping in the strings of some formats.
KEYS = ("", "sk-plain", "it's\"a\\key#{}$<<x>>")
SETTINGS = [
    pytest.param(e, s, id=f"{e.name} {s.format}{i}")
    for e in EDITORS
    for i, s in enumerate(e.settings)
]


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["editors", *arguments])
    return done.exit_code, done.stdout, done.stderr


def filled(setting: Setting, url: str, key: str = "", model: str = DEFAULT_MODEL) -> str:
    return fill(setting, Target(address_at(url), model, key))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(("editor", "setting"), SETTINGS)
def test_setting_parses_and_contains_the_address(
    editor: Editor, setting: Setting, url: str, key: str
) -> None:
    text = filled(setting, url, key, 'it\'s "mine" \\ {}')
    assert not re.search(r"<<(?!x>>)", text)
    if not text:
        assert not key, "only settings for a key may be empty"
        return
    found = parsed(text, setting.format)
    assert not any(re.search(r"[^:]//", s) for s in found), "no slash is doubled"
    if "<<url" in setting.template:
        base = address_at(url).url
        assert [s for s in found if s == base or s.startswith(base + "/")]
    if "<<host>>" in setting.template:
        assert address_at(url).host in found
    if "<<key" in setting.template:
        assert (key or "dummy") in found or not key
    elif "<<bearer>>" in setting.template and key:
        assert f"Authorization: Bearer {key}" in found
    else:
        assert not key or key not in found


@pytest.mark.parametrize("editor", EDITORS, ids=lambda e: e.name)
def test_entry_is_complete(editor: Editor) -> None:
    target = Target(address_of("::1", 4711), DEFAULT_MODEL, "k3y")
    texts = [fill(s, target) for s in editor.settings]
    assert any("[::1]" in t and "4711" in t for t in texts)
    assert any("k3y" in t for t in texts) is editor.auth
    assert editor.source.startswith("https://")
    assert editor.evidence in EVIDENCE
    assert editor.fim in FIM
    assert editor.read
    assert editor.route.startswith("/")
    assert find(editor.name.upper()) == (editor,)
    assert len(find(editor.plugin)) == 1


def test_entry_names_are_unique() -> None:
    assert len({e.name for e in EDITORS}) == len(EDITORS)


def test_captured_clients_exist() -> None:
    files = [ROOT / f"tests/data/{name}_requests.jsonl" for name in ("editor", "next_edit")]
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    clients = [json.loads(line)["client"] for line in lines]
    for e in EDITORS:
        if e.evidence == "replayed":
            assert e.captured, e.name
        if e.captured:
            assert [c for c in clients if c.startswith(e.captured)], e.name
        if e.evidence == "documented":
            assert not e.captured, e.name
    assert {e.name for e in EDITORS if e.evidence == "rebuilt"} <= {s.client for s in REBUILT}


def test_copilot_entries_warn_of_the_token_and_need_no_option() -> None:
    copilots = [e for e in EDITORS if "copilot" in e.plugin.lower()]
    assert len(copilots) == 3
    for e in copilots:
        notes = " ".join(e.notes)
        assert "live token" in notes
        assert "No option of `serve` is needed" in notes
        assert "--copilot-request-id" not in notes
        assert not e.auth


def test_settings_for_the_original_plugin() -> None:
    code, out, _ = run("vscode-fauxpilot", "--host", "localhost")
    assert code == 0
    assert '"fauxpilot.server": "http://localhost:18080/v1/engines"' in out


def test_vim_parses_the_settings(tmp_path: Path) -> None:
    if (vim := shutil.which("vim")) is None or "+eval" not in subprocess.run(
        [vim, "--version"], capture_output=True, text=True, check=True
    ).stdout:
        pytest.skip("no Vim with +eval")
    for name, variable, wanted in (
        ("llama-vim", "g:llama_config.endpoint_fim", "http://127.0.0.1:18080/infill"),
        ("copilot-vim", "g:copilot_settings.advanced['debug.overrideProxyUrl']", "http://127.0.0.1:18080"),
    ):  # fmt: skip
        (setting, *_) = next(e for e in EDITORS if e.name == name).settings
        script, out = tmp_path / f"{name}.vim", tmp_path / f"{name}.txt"
        script.write_text(filled(setting, URLS[0], "it's"), "utf-8")
        command = f"call writefile([{variable}], '{out}')"
        subprocess.run(
            [vim, "-N", "-u", "NONE", "-i", "NONE", "-es", "-S", str(script), "-c", command, "-c", "qa!"],
            stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        assert out.read_text("utf-8") == f"{wanted}\n"


def test_node_parses_the_settings(tmp_path: Path) -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("no Node.js")
    script = tmp_path / "client.mjs"
    (setting,) = next(e for e in EDITORS if e.name == "openai-node").settings
    script.write_text(filled(setting, URLS[1], KEYS[2]), "utf-8")
    subprocess.run([node, "--check", str(script)], capture_output=True, check=True)


def test_fim_tokens_depend_on_the_model_name() -> None:
    (zed,) = find("zed")
    for model, wanted in (
        ("Qwen2.5-Coder-1.5B", "qwen"), ("bigcode/starcoder2-3b", "star_coder"),
        ("deepseek-coder-1.3b-base", "deepseek_coder"), ("CodeLlama-7b", "code_llama"),
        ("anything", "star_coder"),
    ):  # fmt: skip
        text = filled(zed.settings[0], URLS[0], model=model)
        settings = json.loads(text)["edit_predictions"]["open_ai_compatible_api"]
        assert settings["prompt_format"] == wanted
        assert settings["model"] == model


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("localhost", "http://localhost:8"), ("::1", "http://[::1]:8"), ("[fe80::2]", "http://[fe80::2]:8"),
        ("0.0.0.0", "http://127.0.0.1:8"), ("::", "http://[::1]:8"),
    ],
)  # fmt: skip
def test_host_and_port_give_a_url(host: str, wanted: str) -> None:
    assert address_of(host, 8).url == wanted


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://localhost:18080/", "http://localhost:18080"),
        ("HTTP://Localhost/v1", "http://localhost"),
        ("https://[::1]:443/a/b//", "https://[::1]:443/a/b"),
    ],
)
def test_url_is_trimmed_to_the_routes_prefix(url: str, wanted: str) -> None:
    assert address_at(url).url == wanted


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "http://box"], ["--host", "box:80"], ["--host", ""], ["--host", "b ox"], ["--port", "0"],
        ["--port", "65536"], ["--url", "box:18080"], ["--url", "ftp://box"], ["--url", "http://"],
        ["--url", "http://box:x"], ["--url", "http://me:secret@box"], ["--url", "http://box?key=1"],
        ["--url", "http://[::z]"], ["--url", "http://bücher.example"], ["--url", "http://box", "--port", "80"],
        ["--model", " "], ["--model", "a\nb"],
    ],
)  # fmt: skip
def test_bad_addresses_are_rejected(arguments: list[str]) -> None:
    code, out, err = run("curl", *arguments)
    assert code == 2
    assert out == ""
    assert arguments[0] in err
    assert "hint:" in err


def test_bad_key_is_not_repeated_in_the_error() -> None:
    code, _, err = run("curl", "--api-key", "se cret")
    assert code == 2
    assert "cret" not in err
    with pytest.raises(InvalidInput):
        Target(address_of("box", 1), "m", "kéy")


def test_typo_gets_a_hint() -> None:
    for typo, hint in (
        ("lama.vim", "did you mean llama.vim or llama.vscode?"),
        ("neovm", "did you mean neovim?"),
        ("vscod", "did you mean vscode?"),
        ("frobnicate", "turbopilot editors lists them"),
    ):
        code, _, err = run(typo)
        assert code == 2
        assert err == f"error: {typo}: unknown editor or plugin\nhint: {hint}\n", (
            "each plugin is suggested once"
        )


def test_list_shows_every_entry_and_its_evidence() -> None:
    code, out, _ = run()
    assert code == 0
    for word in ("tested", "replayed", "rebuilt", "documented"):
        assert word in out
    assert "turbopilot editors NAME" in out
    assert [line.split()[0] for line in out.splitlines()[1 : len(EDITORS) + 1]] == [
        e.name for e in EDITORS
    ]


OF_VSCODE = [
    "fauxpilot",
    "llama-vscode",
    "continue",
    "twinny",
    "copilot",
    "llm-gateway",
    "tabby",
    "sweep",
]


@pytest.mark.parametrize(
    ("editor", "plugins"),
    [
        (
            "vscode",
            OF_VSCODE,
        ),
        (
            "VS Code",
            OF_VSCODE,
        ),
        ("neovim", ["tabby", "llama-vim", "vim-function", "minuet", "copilot-vim", "cursortab"]),
        ("nvim", ["tabby", "llama-vim", "vim-function", "minuet", "copilot-vim", "cursortab"]),
        ("vim", ["tabby", "llama-vim", "vim-function", "copilot-vim"]),
        (
            "jetbrains",
            ["continue", "tabby", "sweep", "proxyai", "completamente", "ollama-jetbrains"],
        ),
        ("emacs", ["emacs-function", "minuet-el", "copilot-el"]),
        ("helix", ["tabby-agent", "lsp-ai"]),
        ("shell", ["curl", "llm"]),
    ],
)
def test_editor_name_lists_its_plugins(editor: str, plugins: list[str]) -> None:
    code, out, _ = run(editor)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1 : len(plugins) + 1]] == plugins
    assert out.splitlines()[len(plugins) + 1] == ""
    listed = json.loads(run(editor, "--json")[1])["editors"]
    assert [e["name"] for e in listed] == plugins


def test_editor_with_one_plugin_shows_its_settings() -> None:
    code, out, _ = run("python")
    assert code == 0
    assert "from openai import OpenAI" in out


def test_llama_vim_entry_names_its_requirements_and_its_way_to_cancel() -> None:
    code, out, _ = run("llama.vim")
    assert code == 0
    assert "Needs Neovim, or Vim 9.1 or newer, and curl." in out
    assert "cancels       no" in out
    assert "Leaving the editor cancels it" in out


def test_json_is_one_object() -> None:
    code, out, _ = run("--json", "--port", "99", "--api-key", "k3y")
    everything = json.loads(out)
    assert code == 0
    assert everything["url"] == "http://127.0.0.1:99"
    assert [e["name"] for e in everything["editors"]] == [e.name for e in EDITORS]
    one = json.loads(run("tabby", "--json")[1])
    (tabby,) = one["editors"]
    assert one["url"] == f"http://127.0.0.1:{DEFAULT_PORT}"
    assert tabby["evidence"] == "tested"
    assert tabby["settings"][0]["format"] == "toml"
    assert "token" not in tabby["settings"][0]["text"]


def test_entry_without_key_support_is_marked() -> None:
    code, out, err = run("copilot", "--api-key", "k3y")
    assert code == 0
    assert "k3y" not in out
    assert "cannot send a key" in err


def test_document_shows_every_entry() -> None:
    text = (ROOT / "docs/editors.md").read_text("utf-8")
    for e in EDITORS:
        assert f"\n## {e.name}\n" in text
