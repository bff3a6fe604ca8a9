"""Hook of MkDocs: remove the marks of checked blocks, and give the site the project's colours."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # for a run outside the project's environment

from mkdocs.structure.files import File

from turbopilot.render.look import stylesheet

# The theme's variables; mkdocs.yml names the file among its stylesheets.
COLOURS = """\
[data-md-color-scheme][data-md-color-primary] {
  --md-default-bg-color: var(--page); --md-default-fg-color: var(--ink); --md-default-fg-color--light: var(--soft);
  --md-default-fg-color--lightest: var(--rule); --md-typeset-color: var(--ink); --md-typeset-a-color: var(--link);
  --md-primary-fg-color: var(--shade); --md-primary-bg-color: var(--ink); --md-accent-fg-color: var(--k1);
  --md-code-bg-color: var(--shade); --md-code-fg-color: var(--ink); --md-footer-bg-color: var(--shade);
  --md-footer-fg-color: var(--ink); --md-footer-fg-color--light: var(--soft); --md-text-font: var(--sans);
  --md-code-font: var(--mono);
}
"""


def on_files(files: Any, config: Any) -> None:
    """Add look.css to the site; its colours follow the reader's choice of the theme's light or dark scheme."""
    dark = re.compile(
        r"@media screen and \(prefers-color-scheme: dark\) \{\s*:root (\{.*?\})\s*\}", re.DOTALL
    )
    look = dark.sub(r'[data-md-color-scheme="slate"] \1', stylesheet("look"))
    files.append(
        File.generated(config, "look.css", content=look.replace(":root", "body") + COLOURS)
    )


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with ```` ```sh ```` in place of ```` ```sh checked ````."""
    return re.sub(r"^( *```sh) checked.*$", r"\1", markdown, flags=re.MULTILINE)
