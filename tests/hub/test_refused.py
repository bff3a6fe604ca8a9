"""Tests of names that cannot be downloaded, because they are malformed or the Hub rejects them."""

from __future__ import annotations

import pytest

from tests.support.hub_case import InProcess, run
from turbopilot.app.resolve import parse_name
from turbopilot.base.errors import InvalidInput
from turbopilot.hub import HubRequest

QWEN, READY = "Qwen/Qwen2.5-Coder-0.5B", "ggml-org/Qwen2.5-Coder-0.5B-Q8_0-GGUF"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["me/gated"], 3, ["you must accept its terms first", "https://huggingface.co/me/gated"]),
        (["me/private"], 3, ["denied access (401)", "hf auth login"]),
        (["me/down"], 3, ["did not answer: Server error '503", "HF_ENDPOINT"]),
        (["me/none"], 3, ["no such repository", "check the spelling"]),
        (["me/small", "--revision", "nobranch"], 3, ["no revision 'nobranch'"]),
        (["me/empty"], 3, ["has no weights"]),
        (["me/ggufs"], 3, ["has several GGUF files", "Q4_K_S (0.0 MB)", "me/ggufs:"]),
        (["me/ggufs:Q5_0"], 3, ["no GGUF file of type Q5_0", "did you mean"]),
        (["me/small:Q5_0"], 3, ["has no GGUF files", "turbopilot quantize small-f16.gguf Q5_0"]),
        (["me/ggufs/tiny-q4_k_l.gguf"], 3, ["has no file", "or tiny-q4_k_m.gguf?"]),
        (["a--b/c"], 2, ["not a repository name"]),
    ],
)  # fmt: skip
def test_rejected_name_has_a_hint(
    here: InProcess, arguments: list[str], code: int, words: list[str]
) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    for word in words:
        assert word in err
    assert not here.hub.bodies


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("me/x", {}, HubRequest("me/x")),
        ("me/x:Q4_0", {}, HubRequest("me/x", quant="Q4_0")),
        ("me/x", {"quant": "Q4_0", "revision": "v1"}, HubRequest("me/x", "v1", "Q4_0")),
        ("me/x/a/b.gguf", {}, HubRequest("me/x", file="a/b.gguf")),
        ("https://huggingface.co/me/x/tree/v1", {}, HubRequest("me/x", "v1")),
        ("hf.co/me/x:Q4_0", {}, HubRequest("me/x", quant="Q4_0")),
        ("huggingface.co/me/x/blob/main/a.gguf?x=1", {}, HubRequest("me/x", file="a.gguf")),
        ("Qwen2.5-Coder-0.5B", {}, HubRequest(QWEN)),
        ("qwen2.5-coder-0.5b:Q8_0", {}, HubRequest(READY, quant="Q8_0")),
        ("qwen2.5-coder-0.5b", {"quant": "Q8_0"}, HubRequest(READY, quant="Q8_0")),
        ("qwen2.5-coder-32b:Q8_0", {}, HubRequest("Qwen/Qwen2.5-Coder-32B", quant="Q8_0")),
    ],
)
def test_valid_names_are_parsed(text: str, options: dict[str, str], expected: HubRequest) -> None:
    assert parse_name(text, **options) == expected


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("santacodr", {}, "unknown model name"),
        ("me/x:", {}, "no quantization type after the colon"),
        ("me/x:Q4_0", {"quant": "Q8_0"}, "names the type Q4_0"),
        ("me/x", {"quant": "Q4 0"}, "not a quantization type"),
        ("me/x/a.gguf", {"quant": "Q4_0"}, "is one file"),
        ("me/x/a.safetensors", {}, "not a repository"),
        ("hf.co/datasets/me", {}, "not the page of a model"),
        ("hf.co/me/x/blob/main/a.py", {}, "only .gguf and old .bin"),
        ("hf.co/me/x/tree/v1", {"revision": "v2"}, "names the revision v1"),
    ],
)
def test_bad_names_are_rejected(text: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_name(text, **options)
