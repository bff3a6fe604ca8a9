"""Texts to be read by both models: the code samples of `battery/`, and a user's own. Knows nothing of models."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from turbopilot.base.errors import InvalidInput


def code_samples() -> dict[str, str]:
    """Name → text of the files in `battery/`, in order of their names."""
    folder = resources.files("turbopilot.verify").joinpath("battery")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".txt")), key=lambda f: f.name)
    # Bytes, not read_text: text mode would turn a checkout's CRLF into LF, and hide that it had any.
    return {f.name.removesuffix(".txt"): f.read_bytes().decode("utf-8") for f in files}


def read_prompts(path: Path) -> list[str]:
    """Prompts of a user's file, parted by lines that hold `%%` alone; without such a line it is one prompt.

    Raises:
        InvalidInput: the file is absent, is not UTF-8, or holds no text.
    """
    blocks: list[list[str]] = [[]]
    for line in read_text(path).split("\n"):
        if line.strip() == "%%":
            blocks.append([])
        else:
            blocks[-1].append(line)
    prompts = [text for text in ("\n".join(lines) for lines in blocks) if text.strip()]
    if not prompts:
        raise InvalidInput(
            f"{path}: holds no prompt",
            hint="write one prompt, or several with a line of %% between",
        )
    return prompts


def read_text(path: Path) -> str:
    """A user's UTF-8 text, line ends kept as they are.

    Raises:
        InvalidInput: the file is absent or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as e:
        raise InvalidInput(f"{path}: cannot be read: {e.strerror}", hint="check the path") from e
    except UnicodeDecodeError as e:
        raise InvalidInput(
            f"{path}: is not UTF-8 (byte {e.start:,})", hint="save it as UTF-8"
        ) from e
