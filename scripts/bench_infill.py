#!/usr/bin/env python3
"""Measure how often a model fills in exactly the removed text, as served, with and without token healing.

    python scripts/bench_infill.py MODEL.gguf --task span

The tasks are those of `turbopilot verify --task`. Completions are greedy. A model without fill-in-the-middle tokens
gets the text before the cursor alone.

Columns: exact matches (without white space at the ends), completions whose first word is that of the solution, and
completions that begin inside a word although the cursor is not in one.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from serve.engine import Engine, EngineOptions
from serve.llama import load
from serve.models.completion import Completion
from serve.models.loading import host
from serve.models.service import CompletionService
from serve.request import SamplingParams
from serve.settings import ModelOptions, TextOptions
from turbopilot.tasks.suite import SUITES, Task

# Python's names and numbers, and single other characters.
_WORD = re.compile(r"\w+|[^\w\s]")


def completions(
    service: CompletionService, tasks: Sequence[Task], max_tokens: int
) -> Iterator[str]:
    """Yield the greedy completion of each task."""
    for task in tasks:
        asked = Completion(
            (task.prefix,), max_tokens, task.suffix, sampling=SamplingParams(temperature=0)
        )
        (choice,) = service.start(asked, whole=True).collect().choices
        yield choice.text


def first_word(text: str) -> str:
    """Return the first name, number or other character; "" for white space."""
    found = _WORD.search(text)
    return found[0] if found else ""


def begins_inside_a_word(task: Task, text: str) -> bool:
    """Return whether a completion begins with the end of a name that the solution or the file has as a whole."""
    if (
        not task.prefix
        or task.prefix[-1].isalnum()
        or task.prefix[-1] == "_"
        or not text[:1].isalpha()
    ):
        return False
    whole = task.prefix + task.solution + (task.suffix or "")
    word, names = first_word(text), set(_WORD.findall(whole))
    return word not in names and any(n.endswith(word) for n in names if len(n) > len(word) > 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--task", choices=SUITES, default="span")
    parser.add_argument("--tasks", type=int, help="number of random tasks (default: all)")
    parser.add_argument("--json", type=Path, help="write all completions to this file")
    args = parser.parse_args()
    suite = SUITES[args.task]
    tasks = suite.sample(args.tasks, seed=0)
    made: dict[str, list[str]] = {}
    print(f"{args.model.name}: {len(tasks)} {suite.title}")
    print(f"{'':12} {'exact':>6} {'first word':>11} {'inside a word':>14}")
    for name, heals in (("as cut", False), ("healed", True)):
        decoder, _ = load(args.model, ModelOptions(n_seq=1, tunes=False))
        engine = Engine(decoder, EngineOptions(looks_ahead=False))
        service = host(engine, text=TextOptions(heals=heals), free=decoder.close)
        try:
            made[name] = list(completions(service, tasks, suite.max_tokens))
        finally:
            service.close()
        pairs = list(zip(tasks, made[name], strict=True))
        exact = sum(text.strip() == t.solution.strip() for t, text in pairs)
        first = sum(first_word(text) == first_word(t.solution) for t, text in pairs)
        inside = sum(begins_inside_a_word(t, text) for t, text in pairs)
        print(f"{name:12} {exact:6} {first:11} {inside:14}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(made, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
