"""Commands that write files, for attack_kill: their outputs, and checks that an output is whole."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Final
from unittest.mock import patch

from attack.samples import Samples
from tests.support.hub_server import Hub, playing
from turbopilot.formats.gguf.certificate import check
from turbopilot.formats.gguf.file import read_gguf

REPO: Final = "me/model"
_WEIGHTS: Final = "model.safetensors"

Check = Callable[[Path, Path], bool]
"""Whether a file, the first, is whole; the second is an undisturbed run's."""


def equal(path: Path, wanted: Path) -> bool:
    """Return whether two files are equal."""
    return path.read_bytes() == wanted.read_bytes()


def signed_or_not(path: Path, wanted: Path) -> bool:
    """Return whether a GGUF file has a valid certificate or none, and the right size of tensors."""
    header = read_gguf(path)
    return (
        check(header) in ("none", "valid") and header.tensor_bytes == read_gguf(wanted).tensor_bytes
    )


def whole_page(path: Path, wanted: Path) -> bool:
    """Return whether a report is complete; it holds the time."""
    text = path.read_text("utf-8").strip()
    return text.startswith("<!") and text.endswith("</html>")


@dataclass(frozen=True, slots=True)
class Writer:
    """A command that writes.

    Attributes:
        arguments: from the folder of a case and the samples.
        outputs: names of files in the folder → how to check them.
        kills: number of kills in a whole run.
        pairs: number of pairs of writers in a whole run.
        rival: arguments of the other writer of a pair; None for the same command.
        before: prepares the folder.
        variables: of the environment, from the folder and the Hub's URL.
        needs_torch: whether it loads PyTorch, which a warm process then has loaded.
    """

    arguments: Callable[[Path, Samples], list[str]]
    outputs: Mapping[str, Check]
    kills: int
    pairs: int = 0
    rival: Callable[[Path, Samples], list[str]] | None = None
    before: Callable[[Path, Samples], None] = lambda folder, samples: None
    variables: Callable[[Path, str], dict[str, str]] = lambda folder, url: {}
    needs_torch: bool = False


def _words(*words: str) -> Callable[[Path, Samples], list[str]]:
    def arguments(folder: Path, s: Samples) -> list[str]:
        known = {
            "MODERN": s.modern, "OLD": s.old_bin, "GGUF": s.gguf, "TEXT": s.text, "Q8": s.gguf_q8, "TO": folder / "to",
            "OUT": folder / "out.gguf", "SIGNED": folder / "signed.gguf", "PAGE": folder / "report.html",
            "BIN": folder / "old.bin", "MINE": folder / "mine.gguf", "YOURS": folder / "yours.gguf",
        }  # fmt: skip
        return [str(known.get(word, word)) for word in words]

    return arguments


def _copy_gguf(folder: Path, samples: Samples) -> None:
    if not (folder / "signed.gguf").exists():
        shutil.copyfile(samples.gguf, folder / "signed.gguf")


def _copy_old(folder: Path, samples: Samples) -> None:
    if not (folder / "old.bin").exists():
        shutil.copyfile(samples.old_bin, folder / "old.bin")


def _hub(folder: Path, url: str) -> dict[str, str]:
    return {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf")}


_OUT: Final[Mapping[str, Check]] = {"out.gguf": equal}
_VERIFY: Final = ("--positions", "40", "--text", "TEXT")
_IMATRIX: Final = ("--text", "TEXT", "--ctx", "32", "--chunks", "12", "--threads", "1", "--force")

WRITERS: Final[Mapping[str, Writer]] = {
    "convert": Writer(
        _words("convert", "MODERN", "-o", "OUT", "--force"), _OUT, kills=75, pairs=30,
        rival=_words("convert", "MODERN", "-o", "OUT", "--force", "--dtype", "q8_0"),
    ),
    "quantize": Writer(
        _words("quantize", "GGUF", "Q8_0", "-o", "OUT", "--force"), _OUT, kills=60, pairs=30,
        rival=_words("quantize", "GGUF", "Q4_0", "-o", "OUT", "--force"),
    ),
    "imatrix": Writer(_words("imatrix", "GGUF", "-o", "OUT", *_IMATRIX), _OUT, kills=40, pairs=10),
    "import": Writer(
        _words("convert", "OLD", "-o", "OUT", "--force"), _OUT, kills=40, pairs=20,
        rival=_words("convert", "OLD", "-o", "OUT", "--force", "--vocab-only"),
    ),
    "import beside": Writer(
        _words("quantize", "BIN", "Q8_0", "-o", "MINE", "--force"), {"old.bin.gguf": equal, "mine.gguf": equal},
        kills=20, pairs=10, rival=_words("quantize", "BIN", "Q4_0", "-o", "YOURS", "--force"), before=_copy_old,
    ),
    "sign": Writer(
        _words("verify", "SIGNED", "--against", "MODERN", "--sign", *_VERIFY), {"signed.gguf": signed_or_not},
        kills=20, pairs=4, before=_copy_gguf, needs_torch=True,
    ),
    "verify": Writer(
        _words("verify", "Q8", "--against", "GGUF", "--report", "PAGE", *_VERIFY), {"report.html": whole_page},
        kills=20, pairs=4,
    ),
    "download": Writer(
        _words("download", REPO, "--to", "TO"),
        {f"to/{_WEIGHTS}": equal, "to/config.json": equal, "to/tokenizer.json": equal},
        kills=30, pairs=4, variables=_hub,
    ),
    "download to cache": Writer(_words("download", REPO), {}, kills=20, pairs=4, variables=_hub),
}  # fmt: skip


@contextmanager
def hub_with(samples: Samples) -> Iterator[Hub]:
    """Run a Hub on loopback with one repository, large enough that a kill meets its transfer."""
    files = {
        name: (samples.modern / name).read_bytes() for name in ("config.json", "tokenizer.json")
    }
    files[_WEIGHTS] = (samples.modern / _WEIGHTS).read_bytes() * 40
    # Killed clients reset their connections, which the server would print.
    quiet = patch.object(ThreadingHTTPServer, "handle_error")
    with quiet, playing(Hub({REPO: files})) as hub:
        yield hub


def faults_in(
    writer: Writer, folder: Path, wanted: tuple[Path, ...], *, ended_well: bool
) -> Iterator[tuple[str, str]]:
    """Yield (column, what was seen) for each file that is torn, missing or left over.

    Args:
        writer: that wrote.
        folder: of the case.
        wanted: folders of undisturbed runs, of any of which a file may be.
        ended_well: whether an undisturbed command was the last one: nothing may be missing or left over.
    """
    for name, whole in writer.outputs.items():
        path = folder / name
        if not path.exists():
            if ended_well:
                yield "missing", name
            continue
        try:
            good = any(whole(path, other / name) for other in wanted if (other / name).exists())
        except Exception as e:  # whatever the reader of a torn file raises
            yield "torn", f"{name}: {e!r}"
            continue
        if not good:
            yield (
                "torn",
                f"{name}, {path.stat().st_size:,} bytes, differs from every undisturbed run's",
            )
    yield from _torn_blobs(folder)
    if ended_well:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder).as_posix()
            if path.is_file() and (
                ".part" in path.name or path.name.endswith((".incomplete", ".resume"))
            ):
                yield "left over", inside


def _torn_blobs(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the blobs of a Hub's cache whose content is not what their names say."""
    for blob in folder.glob("hf/hub/models--*/blobs/*"):
        data = blob.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        if len(blob.name) in (40, 64) and blob.name not in (git, hashlib.sha256(data).hexdigest()):
            yield "torn", f"{blob.name}, {len(data):,} bytes, has another checksum"
