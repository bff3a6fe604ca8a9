#!/usr/bin/env python3
"""Print the structure of the source: lines per room, long files and functions, class names that exist twice.

    python scripts/structure.py [FOLDER]           # FOLDER: another checkout to compare with

Lines are those of all Python and template files, with comments and blank lines. A room is a package, or a folder
inside turbopilot/ or serve/.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("turbopilot", "converters", "quantize", "serve")
MOST_LINES, MOST_PARAMETERS = 60, 6


def sources(root: Path, package: str) -> Iterator[Path]:
    for suffix in ("*.py", "*.j2"):
        yield from sorted((root / package).rglob(suffix))


def room(path: Path) -> str:
    deep = path.parts[0] in ("turbopilot", "serve") and len(path.parts) > 2
    return "/".join(path.parts[: 2 if deep else 1])


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    rooms: dict[str, list[tuple[int, str]]] = {}
    functions: list[tuple[int, int, str]] = []  # lines, parameters, name
    classes: Counter[str] = Counter()
    for package in (*PACKAGES, "tests", "scripts"):
        for path in sources(root, package):
            name = path.relative_to(root)
            text = path.read_text("utf-8")
            rooms.setdefault(room(name), []).append((len(text.splitlines()), str(name)))
            if package not in PACKAGES or path.suffix != ".py":
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef):
                    classes[node.name] += 1
                elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    given = node.args
                    all_args = [*given.posonlyargs, *given.args, *given.kwonlyargs]
                    n = sum(a.arg not in ("self", "cls") for a in all_args)
                    n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    functions.append((n_lines, n, f"{name}:{node.name}"))

    print(f"{'room':26} {'files':>5} {'lines':>6} {'median':>6}  longest")
    for where, files in rooms.items():
        sizes = [n for n, _ in files]
        longest, file = max(files)
        print(
            f"{where:26} {len(files):5} {sum(sizes):6} {statistics.median(sizes):6.0f}  {longest} {file}"
        )
    total = sum(n for where, f in rooms.items() if where.split("/")[0] in PACKAGES for n, _ in f)
    print(f"\nthe four packages: {total} lines")
    sizes = [n for n, _, _ in functions]
    print(
        f"functions: {len(sizes)}, median {statistics.median(sizes):.0f} lines, longest {max(sizes)}"
    )
    for n, _, what in sorted(f for f in functions if f[0] > MOST_LINES):
        print(f"  {n} lines: {what}")
    for _, n, what in sorted((f for f in functions if f[1] > MOST_PARAMETERS), key=lambda f: f[1]):
        print(f"  {n} parameters: {what}")
    twice = sorted(name for name, n in classes.items() if n > 1 and not name.startswith("_"))
    print(f"class names that exist more than once: {', '.join(twice) or 'none'}")


if __name__ == "__main__":
    main()
