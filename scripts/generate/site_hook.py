"""Hook of MkDocs: remove the marks of checked blocks, which its Markdown does not parse as a language."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with ```` ```sh ```` in place of ```` ```sh checked ````."""
    return re.sub(r"^( *```sh) checked.*$", r"\1", markdown, flags=re.MULTILINE)
