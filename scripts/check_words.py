#!/usr/bin/env python3
"""Check the English of the tree: docstrings, comments, messages, test names and docs.

    python scripts/check_words.py                  # everything that git tracks
    python scripts/check_words.py serve tests      # these folders or files
    python scripts/check_words.py --count          # findings by rule and by folder, nothing else

Prints one line for each finding, as `file:line: rule: text`, and exits with 1 if there is any. The rules are in
`RULES`; CONTRIBUTING.md explains how we write.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Texts that are data, generated, or quoted from elsewhere.
SKIPPED = re.compile(
    r"^(tests/(data|corpus|converters/golden|support/published)/|turbopilot/(corpus|verify/battery|demo_model)/.*\.(txt|json)$"
    r"|converters/tokenizer/trial_corpus|scripts/check_words\.py|tests/scripts/test_check_words\.py|LICENSE)"
)
TEXTS = {".md", ".toml", ".j2", ".yml", ".yaml", ".cff", ".sh", ""}

# A "where" after one of these names a place.
_PLACE = (
    r"(?:address|byte|cell|check|column|copy|decide|director(?:y|ies)|document|field|file|find|folder|from|host|know"
    r"|layer|line|machine|module|name|offset|out|page|path|place|point|position|port|prefix|print|record|report|row|say"
    r"|see|server|show|slot|spot|system|tell|token|URL)(?:s|es)?"
)
# In every text. Patterns ignore case.
RULES = {
    "is no": r"(?<!there )\b(?:is|are|was|were|be|been) no\b(?! (?:longer|more|later|less|fewer|larger|greater)\b)",
    "told": r"\b(?:is|are|was|were|be|been|being) told\b|\b(?:tells?|telling) (?!apart)",
    "nobody": r"\b(?:no|some|any|every)body(?:'s)?\b",
    "quaint": r"\b(?:anew|mend(?:s|ed|ing)?|whoever|thereof|therein|whence|hither|thus far)\b"
    r"|\bof so many\b|\bso many (?!that\b)|\b(?:is|are) so\b(?! \w+ that)",
    "guess": r"\bguess(?:es|ed|ing)?\b",
}
# In docstrings alone.
DOCSTRING_RULES = {
    "one word": r"\A\W*[\w'-]+\W*\Z",
    "pronoun": r"\A(?:It|Its|That|This|These|Those|What|They|Their|Which|He|She|Them|Such|Ours?|Where|Who|Whose)\b",
    "where": r"\bwhere\b",
}
# How a function's docstring must not begin: it says what the function does, in the imperative.
NOT_IMPERATIVE = re.compile(
    r"\A(?:The|An?|All|Each|Every|One|Whether|How|If|When|As|For|From|In|On|By|With|Of|At|To|And|Or|But|Not|No|Nothing|Only"
    r"|Some|Any|Both|Same|\d+|Number|Seconds|Bytes|True|False|None|Tokens|Names|Lines|Values)\b"
)
TEST_NAME = re.compile(
    r"^test_(?:(?:it|its|that|they|what|which|who|those|these)_"
    r"|(?:.*_)?(?:what|whose|nobody|somebody|everybody|anybody|told|tells?|says?|said)(?:_|$)"
    r"|.*_(?:is|are|was|were)_no_(?!longer|more)|.*_(?:is|are)_so$)"
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Finding:
    """One place that breaks a rule."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


def check_python(path: str, source: str) -> Iterator[Finding]:
    """Find what breaks a rule in the docstrings, comments, strings and test names of a Python file."""
    tree = ast.parse(source)
    docstrings: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS) and TEST_NAME.search(node.name):
            yield Finding(path, node.lineno, "test name", node.name)
        if isinstance(node, (ast.Module, ast.ClassDef, *_FUNCTIONS)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and (text := _string(first.value)):
                docstrings.add(first.value)
                yield from _check_docstring(path, first.lineno, text, node)
    if not path.startswith("tests/"):  # the strings of tests are mostly data
        for node in ast.walk(tree):
            text = "" if node in docstrings else _string(node)
            if text.count(" ") >= 2:
                yield from _check_text(path, getattr(node, "lineno", 1), text)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from _check_text(path, token.start[0], token.string)


def _string(node: ast.AST) -> str:
    """Return the text of a string constant; "" if the node is anything else."""
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) else ""


def _check_docstring(path: str, line: int, text: str, owner: ast.AST) -> Iterator[Finding]:
    yield from _check_text(path, line, text)
    for rule, pattern in DOCSTRING_RULES.items():
        for found in re.finditer(pattern, text, 0 if rule == "pronoun" else re.IGNORECASE):
            before = text[: found.start()]
            if rule != "where" or not re.search(_PLACE + r"\W+\Z", before, re.IGNORECASE):
                yield _finding(path, line, rule, found)
    if isinstance(owner, _FUNCTIONS) and not _is_value(owner):
        for found in NOT_IMPERATIVE.finditer(text):
            yield _finding(path, line, "not imperative", found)


def _is_value(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function is read as an attribute or injected as a value, so that a noun describes it."""
    return any(
        re.search(r"property|fixture|setter", ast.unparse(d)) for d in function.decorator_list
    )


def check_text(path: str, source: str) -> Iterator[Finding]:
    """Find what breaks a rule in a document, outside its fenced code."""
    is_code = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code:
            yield from _check_text(path, number, line)


def _check_text(path: str, line: int, text: str) -> Iterator[Finding]:
    for rule, pattern in RULES.items():
        for found in re.finditer(pattern, text, re.IGNORECASE):
            yield _finding(path, line, rule, found)


def _finding(path: str, line: int, rule: str, found: re.Match[str]) -> Finding:
    """Return a finding with the words around it; `line` is where the text begins."""
    text, start = found.string, found.start()
    around = text[max(0, start - 30) : found.end() + 40]
    return Finding(path, line + text.count("\n", 0, start), rule, " ".join(around.split()))


def check_files(names: Iterable[str]) -> Iterator[Finding]:
    """Find what breaks a rule in these files, named from the root of the repository."""
    for name in names:
        path = ROOT / name
        if SKIPPED.search(name) or not path.is_file():
            continue
        if path.suffix == ".py":
            yield from check_python(name, path.read_text("utf-8"))
        elif path.suffix in TEXTS:
            yield from check_text(name, path.read_text("utf-8", errors="replace"))


def main() -> None:
    """Check the files of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", nargs="*", help="folders or files (default: the whole tree)")
    parser.add_argument("--count", action="store_true", help="print only how many there are")
    args = parser.parse_args()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *args.path],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    findings = list(check_files(sorted(set(listed.stdout.splitlines()))))
    if args.count:
        for rule, n in Counter(f.rule for f in findings).most_common():
            print(f"{n:6} {rule}")
        for folder, n in Counter("/".join(f.path.split("/")[:2]) for f in findings).most_common():
            print(f"{n:6} {folder}")
    else:
        print("\n".join(map(str, findings)))
    print(f"{len(findings)} findings", file=sys.stderr)
    raise SystemExit(1 if findings else 0)


if __name__ == "__main__":
    main()
