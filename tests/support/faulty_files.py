"""Fault injection: the n-th operation on a folder's files fails, as on a full or broken disk."""

from __future__ import annotations

import builtins
import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# modules that imported FileIO by name
USERS_OF_FILEIO = (
    "converters.pipeline", "converters.hf_export", "converters.checkpoint", "converters.scan",
)  # fmt: skip
CALLS = ("open", "fsync", "replace", "rename", "link", "mkdir", "write", "sendfile")


READING = ("read", "open to read")


class Faults:
    """Count operations on files in `folders`, and let operation number `nth` fail; 0 for none.

    Args:
        folders: beginnings of paths; operations elsewhere are not counted.
        nth: counted from 1.
        error: errno of the failure; operations that only read fail with EIO.
        lasting: whether all later operations of this kind fail too, as on a full disk; unless they only read.
    """

    def __init__(
        self, folders: tuple[str, ...], nth: int, error: int = 0, *, lasting: bool = False
    ) -> None:
        self.folders = folders
        self._nth, self._error, self._lasting = nth, error, lasting
        self._lock = threading.Lock()
        self.count = 0
        self.failed = ""

    def watches(self, path: Any) -> bool:
        """Return whether operations on a path are counted."""
        return not isinstance(path, int) and str(os.fspath(path)).startswith(self.folders)

    def step(self, operation: str, path: Any = None) -> None:
        """Count an operation, and raise OSError if it is to fail."""
        if path is not None and not self.watches(path):
            return
        with self._lock:
            self.count += 1
            again = self._lasting and self.failed == operation and operation not in READING
            if self.count != self._nth and not again:
                return
            self.failed = operation
        number = errno.EIO if operation in READING else self._error
        raise OSError(number, os.strerror(number), path)


@contextmanager
def injected(monkeypatch: pytest.MonkeyPatch, faults: Faults) -> Iterator[None]:
    """Patch this process's file operations; child processes are not affected."""

    class FaultyFile(io.FileIO):
        def __init__(self, file: Any, *args: Any, **kwargs: Any) -> None:
            self.watched = None if isinstance(file, int) else file
            if self.watched is not None:
                mode = args[0] if args else kwargs.get("mode", "r")
                faults.step("open to read" if mode == "r" else "open", self.watched)
            super().__init__(file, *args, **kwargs)

        def write(self, data: Any, /) -> int:
            if self.watched is not None:
                faults.step("write", self.watched)
            return super().write(data) or 0

        def readinto(self, buffer: Any, /) -> int | None:
            if self.watched is not None:
                faults.step("read", self.watched)
            return super().readinto(buffer)

        def readall(self) -> bytes:
            if self.watched is not None:
                faults.step("read", self.watched)
            return super().readall() or b""

    def faulty_open(
        file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any
    ) -> Any:
        if not faults.watches(file) or kwargs.get("opener"):
            return real_open(file, mode, buffering, *args, **kwargs)
        raw = FaultyFile(file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        kind: Any = io.BufferedReader if mode.startswith("r") else io.BufferedWriter
        buffered = io.BufferedRandom(raw) if "+" in mode else kind(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **kwargs)

    real_open = io.open

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *args: Any, **kwargs: Any) -> Any:
            reads = name == "open" and not args[0] & os.O_CREAT
            path = None if isinstance(first, int) else first
            faults.step("open to read" if reads else name, path)
            return real(first, *args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            if hasattr(os, name):
                patch.setattr(os, name, counted(name, getattr(os, name)))
        patch.setattr(io, "open", faulty_open)
        patch.setattr(builtins, "open", faulty_open)
        for module in USERS_OF_FILEIO:
            patch.setattr(f"{module}.FileIO", FaultyFile)
        yield
