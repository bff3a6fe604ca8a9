"""What pages are put together from: text, figures, tables, sections. Knows no reports."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

from turbopilot.base.kl_divergence import Perplexity
from turbopilot.render.svg import escaped


class Markup(str):
    """Text that is HTML already. Any other text is escaped where it meets a page."""

    __slots__ = ()


def safe(text: str) -> Markup:
    """Text as HTML; what is HTML already stays as it is."""
    return text if isinstance(text, Markup) else Markup(escaped(text))


def element(tag: str, *content: str, css: str = "", attributes: str = "") -> Markup:
    """An element.

    Args:
        tag: its name.
        content: escaped, but for markup.
        css: its class.
        attributes: more of them, as HTML.
    """
    named = f' class="{css}"' if css else ""
    more = f" {attributes}" if attributes else ""
    return Markup(f"<{tag}{named}{more}>{''.join(map(safe, content))}</{tag}>")


def joined(parts: Sequence[str]) -> Markup:
    """One after another."""
    return Markup("\n".join(map(safe, parts)))


def section(title: str, level: int, *content: str) -> Markup:
    """A section under a heading; nothing where it has no content."""
    kept = [c for c in content if c]
    if not kept:
        return Markup("")
    return element("section", element(f"h{level}", title), *kept)


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[int] = (),
) -> Markup:
    """A table in a box of its own, which scrolls where the page is narrower.

    Args:
        caption: what it is; for those who do not see it.
        head: of the columns; all of them "" for none, where rows are names and facts.
        rows: cells, the first of each row its heading.
        numbers: columns that are aligned to the right.
    """
    if not rows:
        return Markup("")
    columns = [
        element("th", name, css="n" if i in numbers else "", attributes='scope="col"')
        for i, name in enumerate(head)
    ]
    lines = []
    for row in rows:
        cells = [
            element("td", cell, css="n" if i in numbers else "")
            for i, cell in enumerate(row)
            if i > 0
        ]
        lines.append(element("tr", element("th", row[0], attributes='scope="row"'), *cells))
    top = element("thead", element("tr", *columns)) if any(head) else ""
    whole = element("table", top, element("tbody", joined(lines)))
    label = f'role="region" tabindex="0" aria-label="{escaped(caption)}"'
    css = "scroll" if any(head) else "scroll facts"
    return element("div", whole, css=css, attributes=label)


def figure(title: str, drawing: str, caption: str) -> Markup:
    """A plot with its title above and what there is to know below."""
    parts = element("p", title, css="title"), Markup(drawing), element("figcaption", caption)
    return element("figure", *parts)


def number(value: float) -> str:
    """Three digits of a figure."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def share(value: float) -> str:
    """A share in percent; 100 % is every single one."""
    if not math.isfinite(value):
        return "not finite"
    for digits in (2, 3, 4):
        shown = f"{value:.{digits}%}"
        if value == 1 or float(shown[:-1]) < 100:
            break
    return shown.replace("%", " %")


def with_error(p: Perplexity) -> str:
    """A perplexity or a ratio of two, with as many digits as its error lets stand."""
    if not (math.isfinite(p.value) and math.isfinite(p.error)) or abs(p.value) >= 1e6:
        return f"{number(p.value)} ± {number(p.error)}"
    digits = 2 if not p.error else min(8, max(2, 1 - math.floor(math.log10(p.error))))
    return f"{p.value:,.{digits}f} ± {p.error:.{digits}f}"


def size(n_bytes: int) -> str:
    """Bytes for a person."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{number(n_bytes / unit)} {name}"
    return f"{n_bytes:,} B"


def base(path: str) -> str:
    """The last part of a path, of any system."""
    return next((part for part in reversed(re.split(r"[\\/]", path)) if part), path)


def count(n: int, one: str, more: str = "") -> str:
    """So many of something."""
    return f"{n:,} {one if n == 1 else more or one + 's'}"
