"""First completions of a newcomer: the bundled model, greedy, at the ten prompts of its card."""

from __future__ import annotations

import argparse
import builtins
import heapq
import inspect
import json
import keyword
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.engine import Engine
from serve.http.app import create_app
from serve.llama import load
from serve.models.loading import host
from serve.settings import ModelOptions
from tests.support.serving import pool_of

MAX_TOKENS = 64
# Words that whole source files have: keywords, builtins and the names in some modules of the standard library.
KNOWN = {*keyword.kwlist, *dir(builtins)} | {
    word
    for module in (argparse, heapq, statistics, textwrap)
    for word in re.findall(r"\w+", inspect.getsource(module))
}


@pytest.fixture(scope="module")
def choices(demo_checkpoint: Path, demo_gguf: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """The server's answer to each prompt of the card."""
    facts = json.loads((demo_checkpoint / "training.json").read_text("utf-8"))
    prompts = [shown["prompt"] for shown in facts["completions"]["after"]["plain"]]
    decoder, _ = load(demo_gguf, ModelOptions(threads=2, n_seq=1, tunes=False))
    service = host(Engine(decoder), free=decoder.close)
    client = create_app(pool_of(service)).test_client()
    found = {}
    for prompt in prompts:
        body = {"prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0}
        (found[prompt],) = client.post("/v1/completions", json=body).get_json()["choices"]
    yield found
    service.close()


def test_card_has_ten_prompts(choices: dict[str, dict[str, Any]]) -> None:
    assert len(choices) == 10


def test_first_completions_do_not_repeat_a_line_three_times(
    choices: dict[str, dict[str, Any]],
) -> None:
    for prompt, choice in choices.items():
        lines = [line.strip() for line in choice["text"].splitlines() if line.strip()]
        assert max(Counter(lines).values(), default=0) < 3, f"{prompt}│{choice['text']}"


def test_first_completions_do_not_begin_inside_a_word(choices: dict[str, dict[str, Any]]) -> None:
    for prompt, choice in choices.items():
        assert prompt[-1] in " \n", "the cursor is between two words"
        word = re.match(r"\w*", choice["text"])
        assert word
        assert word[0] in KNOWN | {""} | set(re.findall(r"\w+", prompt)), (
            f"{prompt}│{choice['text']}"
        )


def test_most_first_completions_end_before_the_limit(choices: dict[str, dict[str, Any]]) -> None:
    assert sum(choice["finish_reason"] == "stop" for choice in choices.values()) >= 7
    assert all(choice["text"].strip() for choice in choices.values())


def test_most_first_completions_are_python(choices: dict[str, dict[str, Any]]) -> None:
    def is_python(text: str) -> bool:
        try:
            compile(text, "completion.py", "exec")
        except SyntaxError:
            return False
        return True

    ended = {p: c for p, c in choices.items() if c["finish_reason"] == "stop"}
    assert sum(is_python(p + c["text"]) for p, c in ended.items()) >= len(ended) - 2
