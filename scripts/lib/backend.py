#!/usr/bin/env python3
"""Answer the questions of venv.sh about llama.cpp's backends. Uses the standard library only.

backend.py choose        print the backend for this machine; TURBOPILOT_BACKEND overrides it
backend.py explain       print it with the reason, and what to install for a better one
backend.py cmake NAME    print the CMake options of a backend
backend.py setup NAME    print the environment of its build, as shell assignments
backend.py has NAME      exit with 0 if the llama.cpp of this interpreter has the backend (or rpc) and can be loaded
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from turbopilot.base.backends import (
    BY_NAME,
    BackendChoice,
    choose_backend,
    is_built,
    library_folder,
)
from turbopilot.base.graphics import graphics_cards


def chosen() -> BackendChoice:
    if name := os.environ.get("TURBOPILOT_BACKEND", ""):
        if name not in BY_NAME:
            sys.exit(f"error: TURBOPILOT_BACKEND={name}: expected one of {', '.join(BY_NAME)}")
        return BackendChoice(BY_NAME[name], "TURBOPILOT_BACKEND is set")
    return choose_backend(graphics_cards())


def explained(choice: BackendChoice) -> str:
    missing = f"; {choice.missing}" if choice.missing else ""
    return f"{choice.backend.name} ({choice.why}{missing})"


def loads(libraries: Path) -> bool:
    """Load llama.cpp and start its backends; one that was compiled for another driver or processor cannot.

    The package is not imported: venv.sh asks before what it needs is installed.
    """
    for name in ("libllama.so", "libllama.dylib"):
        if (path := libraries / name).is_file():
            ctypes.CDLL(str(path)).llama_backend_init()
            return True
    return False


def main() -> None:
    match sys.argv[1:]:
        case ["choose"]:
            print(chosen().backend.name)
        case ["explain"]:
            print(explained(chosen()))
        case ["cmake", name]:
            print(" ".join(BY_NAME[name].cmake))
        case ["setup", name]:
            print(BY_NAME[name].setup)
        case ["has", name]:
            libraries = library_folder()
            has = libraries and is_built(name, libraries) and loads(libraries)
            sys.exit(0 if has else 1)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
