"""Prompts that Zed, cursortab.nvim and Continue frame for next-edit models: answers, shortening and drafts.

Each answer is read by the rules of the client's own parser.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from serve.drafting import Drafter
from serve.prompt import zeta
from serve.prompt.fim import PromptBuilder
from serve.prompt.region_prompt import MOST_PARTS, find_regions
from serve.settings import TextOptions
from tests.serve.test_drafting import Words, generate
from tests.support.fakes import FakeDecoder, script
from tests.support.serving import MakeClient

# Recorded by cursortab.nvim from real models; see tests/data/NOTICE.md.
FILE = Path(__file__).parents[1] / "data/next_edit_requests.jsonl"
RECORDED: list[dict[str, Any]] = [json.loads(x) for x in FILE.read_text("utf-8").splitlines()]

CURRENT = "def area(r):\n    return pi * r\n"
UPDATED = "def area(r):\n    return pi * r**2\n"
BEFORE, AFTER = "from math import pi\n\n\n", "\n\nprint(area(2))\n"
# As crates/zeta_prompt/src/zeta_prompt.rs of Zed writes them (0a854ec and later): format_zeta1_from_input,
# seed_coder::format_prompt_with_budget with V0211SeedCoder (Zeta 2) and V0318SeedMultiRegions (Zeta 2.1), and
# build_prompt in crates/edit_prediction/src/sweep_prompt.rs; max_tokens and stops as in zeta.rs.
_SEED = (
    f"<[fim-suffix]>{AFTER}<[fim-prefix]><filename>util.py\nHALF = 0.5\n\n<filename>edit_history\n--- a/a.py\n"
    f"+++ b/a.py\n@@ -4,2 +4,2 @@\n-def f(r):\n+def area(r):\n\n<filename>a.py\n{BEFORE}"
)
ZED: dict[str, tuple[str, list[str], str]] = {
    "zeta": (
        f"{zeta.INSTRUCTION}User edited a.py:\n```diff\n@@ -4,2 +4,2 @@\n-def f(r):\n+def area(r):\n\n```\n\n"
        f"### User Excerpt:\n\n```a.py\n<|start_of_file|>\n{BEFORE}<|editable_region_start|>\n"
        f"{CURRENT.replace('* r', '* r<|user_cursor_is_here|>').strip()}\n<|editable_region_end|>{AFTER}\n```\n\n"
        "### Response:\n",
        [zeta.ZETA_END + "\n" * n for n in range(4)],
        f"<|editable_region_start|>\n{UPDATED}<|editable_region_end|>\n```\n",
    ),
    "zeta2": (
        f"{_SEED}<<<<<<< CURRENT\n{CURRENT.replace('* r', '* r<|user_cursor|>')}=======\n<[fim-middle]>",
        ["<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"],
        f"{UPDATED}>>>>>>> UPDATED\n",
    ),
    "zeta2.1": (
        f"{_SEED}<|marker_1|>{CURRENT.replace('* r', '* r<|user_cursor|>')}<|marker_2|>\n<[fim-middle]>",
        ["<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"],
        f"<|marker_1|>{UPDATED}<|marker_2|>",
    ),
    "sweep": (
        "<|file_sep|>util.py\nHALF = 0.5\n<|file_sep|>a.py.diff\noriginal:\ndef f(r):\nupdated:\ndef area(r):\n"
        f"<|file_sep|>original/a.py\n{CURRENT}<|file_sep|>current/a.py\n{CURRENT}<|file_sep|>updated/a.py\n",
        ["<|file_sep|>", "</s>"],
        f"{UPDATED}<|file_sep|>",
    ),
}  # fmt: skip


def zed_reads(name: str, text: str) -> str:
    """Return the new lines as Zed does.

    clean_zeta1_model_output, parse_zeta2_model_output and apply_marker_span_v0318 in crates/zeta_prompt, and
    clean_response_text in sweep_prompt.rs. Zed adds a newline at the end.
    """
    if name == "zeta":
        text = text.replace("<|user_cursor_is_here|>", "")
        start = text.find(zeta.ZETA_START)
        text = text[start + len(zeta.ZETA_START) :].removeprefix("\n") if start >= 0 else text
        text = text.partition(zeta.ZETA_END)[0].removesuffix("\n")
    elif name == "zeta2":
        text = text.removesuffix(">>>>>>> UPDATED\n").replace("<|user_cursor|>", "")
    elif name == "zeta2.1":
        tags = list(re.finditer(r"<\|marker_(\d+)\|>", text))
        assert [t[1] for t in tags] == ["1", "2"]
        text = text[tags[0].end() : tags[1].start()].replace("<|user_cursor|>", "")
    else:
        text = text.partition("<|file_sep|>")[0].partition("</s>")[0]
    return text if text.endswith("\n") else f"{text}\n"


@pytest.mark.parametrize("name", ZED)
def test_zed_reads_the_new_lines(make_client: MakeClient, name: str) -> None:
    prompt, stops, output = ZED[name]
    decoder = FakeDecoder(script(output, after=prompt[-40:]), n_ctx=8192, n_batch=512)
    body = {
        "model": name,
        "prompt": prompt,
        "max_tokens": 4 * 256,
        "temperature": None,
        "stop": stops,
    }
    # Zed's RawCompletionRequest leaves out what is None.
    answer = make_client(decoder=decoder).post(
        "/v1/completions", json={k: v for k, v in body.items() if v is not None}
    )
    parsed = answer.get_json()
    assert isinstance(parsed["id"], str)
    assert zed_reads(name, parsed["choices"][0]["text"]) == UPDATED


def cursortab_reads(target: str, body: dict[str, Any], text: str) -> str:
    """Return the new lines as server/provider/{sweep,zeta,zeta2} of cursortab.nvim do; "" for no edit."""
    if target.startswith("sweep"):
        for stop in ("<|file_sep|>", "<|endoftext|>"):
            text = text.removesuffix(stop)
        prefill = str(body["prompt"]).rpartition("updated/")[2].partition("\n")[2]
        return prefill + text.rstrip(" \t\n\r")
    if target == "zeta":
        text = text.replace("<|user_cursor_is_here|>", "")
        at = text.find(zeta.ZETA_START)
        assert at >= 0
        return text[at:].partition("\n")[2].partition(f"\n{zeta.ZETA_END}")[0]
    text = text.removesuffix(">>>>>>> UPDATED\n").removesuffix(">>>>>>> UPDATED")
    return "" if text.strip().startswith("NO_EDITS") else text.replace("<|user_cursor|>", "")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "recorded",
    RECORDED,
    ids=lambda r: f"{r['target']} {r['scenario']}" if isinstance(r, dict) else None,
)
def test_cursortab_reads_the_recorded_rewrite(
    make_client: MakeClient, recorded: dict[str, Any], stream: bool
) -> None:
    target, body, text = recorded["target"], recorded["body"], recorded["text"]
    stop = body["stop"][0]
    decoder = FakeDecoder(script(text + stop, after=body["prompt"][-60:]), n_ctx=16384, n_batch=512)
    response = make_client(decoder=decoder, text=TextOptions()).post(
        "/v1/completions", json={**body, "stream": stream}
    )
    if stream:  # processLineStream in server/client/openai/openai.go
        data = [x.removeprefix("data: ") for x in response.get_data(as_text=True).split("\n\n")]
        chunks = [json.loads(x) for x in data if x not in ("", "[DONE]")]
        found = "".join(c["choices"][0]["text"] for c in chunks if c["choices"])
    else:
        found = response.get_json()["choices"][0]["text"]
    assert found == text
    assert cursortab_reads(target, body, found) == cursortab_reads(target, body, text)


def test_repeated_lines_do_not_end_a_rewrite(make_client: MakeClient) -> None:
    lines = "    values.append(compute(1))\n" * 6
    prompt = f"<|file_sep|>current/a.py\n{lines}<|file_sep|>updated/a.py\n"
    decoder = FakeDecoder(script(lines, after="updated/a.py\n"), n_ctx=4096, n_batch=512)
    client = make_client(decoder=decoder, text=TextOptions(heals=False))
    body = {"prompt": prompt, "max_tokens": 1000}
    assert client.post("/v1/completions", json=body).get_json()["choices"][0]["text"] == lines


def continues_messages() -> list[dict[str, str]]:
    """Return messages as Continue's InstinctNextEditProvider.ts builds them."""
    user = (
        "Reference the user excerpt.\n\n### Context:\n<|context_file|>: util.py\n<|snippet|>\nHALF = 0.5\n\n"
        '### User Edits:\n\nUser edited file "a.py"\n\n```diff\n@@ -4,2 +4,2 @@\n-def f(r):\n+def area(r):\n```\n\n'
        f"### User Excerpt:\na.py\n\n{BEFORE}<|editable_region_start|>\n"
        f"{CURRENT.replace('* r', '* r<|user_cursor_is_here|>')}<|editable_region_end|>\n{AFTER}```\n### Response:"
    )
    return [{"role": "system", "content": "You are Instinct."}, {"role": "user", "content": user}]


# --- parts


@pytest.mark.parametrize("name", ZED)
def test_expected_completion_is_the_region(name: str) -> None:
    framed = find_regions(ZED[name][0])
    assert framed is not None
    assert "".join(p.text for p in framed.parts) == ZED[name][0]
    assert CURRENT.strip() in framed.expected
    assert "user_cursor" not in framed.expected


def test_chat_prompt_of_instinct_is_recognized() -> None:
    prompt = "".join(
        f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in continues_messages()
    )
    framed = find_regions(f"{prompt}<|im_start|>assistant\n")
    assert framed is not None
    assert framed.expected == CURRENT.strip("\n")


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda r: f"{r['target']} {r['scenario']}")
def test_recorded_prompt_is_recognized(recorded: dict[str, Any]) -> None:
    prompt = recorded["body"]["prompt"]
    framed = find_regions(prompt)
    assert framed is not None
    assert "".join(p.text for p in framed.parts) == prompt
    assert framed.expected


@pytest.mark.parametrize(
    "prompt",
    [
        "", "def f():\n", "<fim_prefix>a<fim_suffix>b<fim_middle>", "<|file_sep|>a.py\nx = 1\n",
        "<|file_sep|>updated/a.py\n", "<[fim-suffix]>b<[fim-prefix]>a<[fim-middle]>", "<[fim-suffix]><<<<<<< CURRENT\n",
        "### User Excerpt:\n\n<|editable_region_end|>",
        "### User Excerpt:\n<|editable_region_end|><|editable_region_start|>",
        "<|editable_region_start|>\nx\n<|editable_region_end|>",
        "<|file_sep|>x\n" * MOST_PARTS + "<|file_sep|>current/a\n\n<|file_sep|>updated/a\n",
    ],
)  # fmt: skip
def test_other_prompts_are_not_framed(prompt: str) -> None:
    assert find_regions(prompt) is None


# --- shortening


def long_prompt(name: str) -> str:
    """Return Zed's prompt with 40 more sections and much text around the region."""
    prompt = ZED[name][0]
    files = "".join(f"<filename>f{i}.py\n{'x = 1' * 9}\n" for i in range(40))
    if name == "sweep":
        return files.replace("<filename>", "<|file_sep|>") + prompt
    if name == "zeta":
        edits = "".join(
            f"User edited f{i}.py:\n```diff\n-{'x' * 50}\n+y\n```\n\n" for i in range(40)
        )
        prompt = prompt.replace("### User Edits:\n\n", f"### User Edits:\n\n{edits}")
    prompt = prompt.replace("<[fim-prefix]>", "# suffix\n" * 60 + "<[fim-prefix]>" + files)
    return prompt.replace(BEFORE, "# prefix\n" * 60 + BEFORE)


@pytest.mark.parametrize("name", ZED)
def test_long_prompt_loses_the_oldest_sections_first(name: str) -> None:
    prompt = long_prompt(name)
    builder = PromptBuilder(FakeDecoder(n_ctx=2048, fim=None), 2048)
    built = builder.build(prompt, max_tokens=256, framed=find_regions(prompt))
    text = bytes(built.tokens).decode()
    assert built.truncated == ("prompt",)
    assert 1500 < len(text) <= 2048 - 256
    assert text.startswith(prompt[:12])
    assert text.endswith(prompt[-12:])
    assert CURRENT.splitlines()[0] in text
    kept = [int(i) for i in re.findall(r"f(\d+)\.py", text)]
    assert kept == list(range(40 - len(kept), 40))


@pytest.mark.parametrize("name", ZED)
def test_very_long_prompt_keeps_its_region_and_markers(name: str) -> None:
    prompt = long_prompt(name)
    framed = find_regions(prompt)
    assert framed is not None
    fixed = sum(len(p.text) for p in framed.parts if not p.order)
    n_ctx = fixed + 200
    built = PromptBuilder(FakeDecoder(n_ctx=n_ctx, fim=None), n_ctx).build(
        prompt, max_tokens=64, framed=framed
    )
    text = bytes(built.tokens).decode()
    assert text.startswith(prompt[:12])
    for marker in re.findall(
        r"<\[fim-\w+\]>|<\|editable_region_\w+\|>|<<<<<<< CURRENT|<\|marker_\d\|>", prompt
    ):
        assert marker in text
    assert CURRENT.splitlines()[0] in text
    shorter = find_regions(text)
    assert shorter is not None
    assert shorter.expected == framed.expected


def test_short_prompt_is_unchanged() -> None:
    for prompt, _, _ in ZED.values():
        framed = find_regions(prompt)
        built = PromptBuilder(FakeDecoder(n_ctx=8192, fim=None), 8192).build(
            prompt, max_tokens=256, framed=framed
        )
        assert bytes(built.tokens).decode() == prompt
        assert not built.truncated


# --- drafts


def steps_per_rewrite(recorded: dict[str, Any], *, predicts: bool) -> tuple[int, int, int]:
    """Return (tokens, steps, accepted draft tokens) of a recorded rewrite."""
    words = Words()
    drafts = Drafter(words, words.piece, cost=0.1)
    framed = find_regions(recorded["body"]["prompt"])
    assert framed is not None
    prompt, tokens = (words(t.encode()) for t in (recorded["body"]["prompt"], recorded["text"]))
    expected = framed.expected.encode() if predicts else b""
    steps, _, accepted = generate(drafts.begin(prompt, (), expected), tokens)
    return len(tokens), steps, accepted


def test_recorded_rewrites_take_a_quarter_of_the_steps() -> None:
    found = [steps_per_rewrite(r, predicts=True) for r in RECORDED]
    tokens, steps, accepted = map(sum, zip(*found, strict=True))
    assert steps + accepted == tokens
    assert tokens > 4 * steps
    without = sum(steps_per_rewrite(r, predicts=False)[1] for r in RECORDED)
    assert steps < without


def test_drafts_resume_after_each_kind_of_change() -> None:
    words = Words()
    old = "".join(f"line {i} = compute({i});\n" for i in range(40))
    changed = {
        "replaced": old.replace("line 20 = compute", "row = calculate"),
        "inserted": old.replace("line 20", "new = other(x);\nline 20"),
        "deleted": old.replace("line 20 = compute(20);\nline 21 = compute(21);\n", ""),
    }
    for new in changed.values():
        draft = Drafter(words, words.piece, cost=0.01).begin([], (), old.encode())
        tokens = words(new.encode())
        steps, _, accepted = generate(draft, tokens)
        assert steps + accepted == len(tokens)
        assert len(tokens) > 8 * steps
