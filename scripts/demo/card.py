"""Model card of the demo model: measured figures, and unselected completions before and after the training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from demo.evaluation import Completer

# Held-out modules whose lines are filled in; the completions of the prompts are plain.
SHOWN = (
    "heapq.py", "textwrap.py", "configparser.py", "shlex.py", "tarfile.py", "fractions.py", "csv.py", "calendar.py",
    "statistics.py", "zipfile.py",
)  # fmt: skip
CONTEXT = 2000  # characters of the prefix and of the suffix, as an editor sends them
TEMPLATE = Path(__file__).with_name("card.md")
PROMPTS = Path(__file__).with_name("prompts.json")


def cut(text: str, share: float) -> tuple[str, str, str]:
    """Place the cursor between two words of a line; return the prefix, the rest of the line, and the suffix.

    The line is the first one after this share of the file that has more than 20 characters and does not begin with a
    comment or a string. The cursor is at the beginning of its first word after the middle, or else at its end.
    """
    at = int(len(text) * share)
    for line in text[at:].splitlines(keepends=True)[1:]:
        at = text.index(line, at)
        if len(line.strip()) > 20 and not line.lstrip().startswith(("#", '"', "'")):
            break
    middle = at + len(line) - len(line.lstrip()) + len(line.strip()) // 2
    end = at + len(line) - 1
    word = re.compile(r"\b(?=\w)").search(text, middle, end)
    cursor = word.start() if word else end
    return text[max(0, cursor - CONTEXT) : cursor], text[cursor:end], text[end : end + CONTEXT]


def completions(folder: Path, held_out: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """Return greedy completions of the prompts, and of lines of the held-out modules."""
    completer = Completer(folder)
    prompts = json.loads(PROMPTS.read_text("utf-8"))
    plain = [{"prompt": prompt, "completion": completer.plain(prompt)} for prompt in prompts]
    fills = []
    for name in SHOWN:
        before, line, after = cut(held_out[name], 0.4)
        prefix = before.splitlines()[-1].strip()
        fills.append(
            {
                "file": name,
                "prefix": prefix,
                "original": line,
                "completion": completer.fill(before, after),
            }
        )
    return {"plain": plain, "fills": fills}


def code(text: str) -> str:
    """Return a text as inline code of a Markdown table; line breaks become ⏎."""
    text = text.replace("|", "\\|").replace("\n", "⏎")
    return f"`` {text} ``" if "`" in text else f"`{text}`" if text.strip() else "(nothing)"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figures(measured: dict[str, dict[str, float]], baselines: dict[str, float]) -> str:
    """Return the table of figures, with a column for each of `measured`."""
    rows = [["bits per byte", *(f"{m['bits per byte']:.3f}" for m in measured.values())]]
    for name in next(iter(measured.values())):
        if name.startswith("exact match"):
            rows.append([name, *(f"{m[name]:.1%}".replace("%", " %") for m in measured.values())])
    rows += [
        [f"bits per byte, {name}", *([f"{bits:.3f}"] * len(measured))]
        for name, bits in baselines.items()
    ]
    return table(["", *measured], rows)


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """Write README.md and training.json into the checkpoint's folder."""
    shown: dict[str, dict[str, list[dict[str, str]]]] = facts["completions"]
    plain = "\n\n".join(
        f"{when}:\n\n```python\n{one['prompt']}│{one['completion']}\n```"
        for same in zip(*(c["plain"] for c in shown.values()), strict=True)
        for when, one in zip(shown, same, strict=True)
    )
    fills = [
        [
            code(same[0]["prefix"]),
            code(same[0]["original"]),
            *(code(one["completion"]) for one in same),
        ]
        for same in zip(*(c["fills"] for c in shown.values()), strict=True)
    ]
    text = TEMPLATE.read_text(encoding="utf-8").format(
        **{k: v for k, v in facts.items() if not isinstance(v, list | dict)},
        **facts["geometry"],
        held_out=", ".join(f"`{name}`" for name in facts["held_out"]),
        n_held_out=len(facts["held_out"]),
        n_sources=len(facts["sources"]),
        figures=figures(facts["figures"], facts["baselines"]),
        sources="\n".join(
            f"| {s['name']} | {s['version']} | {s['licence']} | {s['files']:,} | {s['bytes']:,} |"
            for s in facts["sources"]
        ),
        completions=plain,
        fills=table(["prefix", "original", *shown], fills),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / "training.json").write_text(
        json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
