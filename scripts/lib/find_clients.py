"""Find the clients that scripts/test_clients installed; print their versions and write them to FOLDER/found.json.

    python find_clients.py FOLDER [--strict]

For a missing client the file holds the reason, with which its tests are skipped. With --strict the exit code is 1 if a
client other than llama.vim, which is in no registry, is missing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from importlib import metadata
from pathlib import Path

# Client → its package's folder in node_modules.
NPM = {
    "openai-node": "openai",
    "tabby-agent": "tabby-agent",
    "continue-fetch": "@continuedev/fetch",
}
# Clients whose packages are in the environment of the PyPI clients.
PYPI = ("llm", "ollama", "mistralai", "huggingface_hub", "langchain-openai", "litellm")
LLAMA_VIM = "set LLAMA_VIM to a clone of https://github.com/ggml-org/llama.vim (it is in no package registry)"


def said(*command: str) -> str:
    """Return a command's output; "" if the command does not exist or fails."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def first(pattern: str, text: str) -> str:
    """Return group 1 of the first match; "" if there is none."""
    found = re.search(pattern, text)
    return found[1] if found else ""


def npm(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the npm clients with their versions."""
    node = first(r"v([\d.]+)", said("node", "--version"))
    for client, package in NPM.items():
        file = folder / "node/node_modules" / package / "package.json"
        if not node:
            yield client, {"missing": "node is not installed"}
        elif not file.is_file():
            yield client, {"missing": "npm could not install it"}
        else:
            version = json.loads(file.read_text("utf-8"))["version"]
            yield client, {"version": f"{version}, Node {node}"}


def pypi(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the PyPI clients: OpenAI's is in the environment of the tests, the others in their own."""
    yield "openai-python", {"version": metadata.version("openai")}
    python = str(folder / "venv/bin/python")
    code = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    for client in PYPI:
        version = said(python, "-c", code, client).strip()
        yield client, {"version": version} if version else {"missing": "pip could not install it"}


def vim(folder: Path) -> dict[str, str]:
    """Return the versions of Vim and llama.vim, and the path of llama.vim."""
    version = said("vim", "--version")
    if not version:
        return {"missing": "vim is not installed"}
    if "+textprop" not in version or "+job" not in version:
        return {"missing": "Vim was built without text properties or jobs"}
    if not said(str(folder / "venv/bin/python"), "-c", "import pyte; print(pyte)"):
        return {"missing": "pip could not install pyte, which renders its screen"}
    path = os.environ.get("LLAMA_VIM", "")
    if not path:
        return {"missing": LLAMA_VIM}
    script = Path(path, "autoload/llama.vim")
    if not script.is_file():
        return {"missing": f"LLAMA_VIM={path} has no autoload/llama.vim"}
    # llama.vim has no version numbers, and the folder may not be a Git repository.
    digest = sha256(script.read_bytes()).hexdigest()[:12]
    editor = first(r"IMproved ([\d.]+)", version)
    return {
        "version": f"Vim {editor}, autoload/llama.vim of SHA-256 {digest}…",
        "path": str(Path(path).resolve()),
    }


def curl() -> dict[str, str]:
    """Return the version of curl on this machine."""
    version = first(r"curl ([\d.]+)", said("curl", "--version"))
    return {"version": version} if version else {"missing": "curl is not installed"}


def main() -> int:
    """Find the clients, write found.json and print the result."""
    folder = Path(sys.argv[1])
    found = {**dict(pypi(folder)), **dict(npm(folder)), "curl": curl(), "llama.vim": vim(folder)}
    (folder / "found.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    missing = {client: entry["missing"] for client, entry in found.items() if "missing" in entry}
    for client, entry in found.items():
        print(f"{client:16} {entry.get('version') or 'missing: ' + entry['missing']}")
    strict = "--strict" in sys.argv and set(missing) - {"llama.vim"}
    if strict:
        print(f"error: --strict: missing clients: {', '.join(sorted(strict))}", file=sys.stderr)
    return 1 if strict else 0


if __name__ == "__main__":
    sys.exit(main())
