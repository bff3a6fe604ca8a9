"""Write tests/real_editors/results.json, from which docs/editors.md is generated, after a run of scripts/test_editors.

    python scripts/write_editors.py FOLDER

FOLDER is that of scripts/test_editors: it holds results.json (the outcome of each cell), VS Code and the plugins.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for a run as a script

from tests.real_editors.installed import Installed  # noqa: E402


def main() -> None:
    folder = Path(sys.argv[1])
    report = json.loads((folder / "results.json").read_text("utf-8"))
    results = {
        "date": report["date"],
        "versions": Installed(folder, "").versions(),
        "cells": {
            client: {what: cell["outcome"] for what, cell in cells.items()}
            for client, cells in report["cells"].items()
        },
    }
    file = ROOT / "tests/real_editors/results.json"
    file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
