"""Model card of the demo model, with its measured loss and unselected completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from demo.tokenizer import EOS

SHOWN = ("heapq.py", "textwrap.py", "configparser.py", "shlex.py", "tarfile.py", "fractions.py")
CONTEXT = 2000  # characters of the prefix and of the suffix, as an editor sends them
VISIBLE = 7  # lines of the prefix shown in the card
TEMPLATE = Path(__file__).with_name("card.md")


def cut(text: str, share: float) -> tuple[str, str, str]:
    """Place the cursor in the middle of a line; return the prefix, the rest of the line, and the suffix.

    The line is the first one after this share of the file that has more than 20 characters and does not begin with a
    comment or a string.
    """
    at = int(len(text) * share)
    for line in text[at:].splitlines(keepends=True)[1:]:
        at = text.index(line, at)
        if len(line.strip()) > 20 and not line.lstrip().startswith(("#", '"', "'")):
            break
    cursor = at + len(line) - len(line.lstrip()) + len(line.strip()) // 2
    end = at + len(line) - 1
    return text[max(0, cursor - CONTEXT) : cursor], text[cursor:end], text[end : end + CONTEXT]


def write_card(folder: Path, facts: dict[str, Any], held_out: dict[str, str]) -> None:
    """Write README.md, with completions of the checkpoint in `folder`, and training.json into `folder`."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def continued(prompt: str) -> str:
        ids = torch.tensor([tokenizer.encode(prompt).ids[-960:]])
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=40, do_sample=False)
        text = tokenizer.decode(out[0, ids.shape[1] :].tolist(), skip_special_tokens=False)
        return text.split(EOS)[0]

    completions, fills = [], []
    for name in SHOWN:
        before, line, after = cut(held_out[name], 0.4)
        context = "\n".join(before.splitlines()[-VISIBLE:])
        completions.append(f"`{name}`\n\n```python\n{context}│{continued(before)}\n```")
        middle = continued(f"<fim_prefix>{before}<fim_suffix>{after}<fim_middle>")
        fills.append(f"| `{context.splitlines()[-1].strip()}` | `{line}` | `{middle!r}` |")
    figures = facts["bits_per_byte"]
    text = TEMPLATE.read_text(encoding="utf-8").format(
        **{k: v for k, v in facts.items() if k not in ("held_out", "geometry")},
        **facts["geometry"],
        weights=sum(p.numel() for p in model.parameters()),
        held_out=", ".join(f"`{name}`" for name in facts["held_out"]),
        n_held_out=len(facts["held_out"]),
        table="\n".join(f"| {name} | {bits:.3f} |" for name, bits in figures.items()),
        completions="\n\n".join(completions),
        fills="\n".join(fills),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
