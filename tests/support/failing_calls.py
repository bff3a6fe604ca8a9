"""Fault injection: let the i-th call to the file system below a folder fail, as SQLite's tests do."""

from __future__ import annotations

import builtins
import errno
import importlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

BY_PATH: Final = (
    "open",
    "mkdir",
    "unlink",
    "remove",
    "replace",
    "rename",
    "symlink",
    "link",
    "rmdir",
)
BY_FILE: Final = ("read", "write", "fsync", "ftruncate")


_PYTHON_IO: Final = importlib.import_module("_pyio")


class Killed(BaseException):
    """Stands for SIGKILL: after it, no call below the folder has an effect."""


class FailingCalls:
    """Wrappers of `os` functions that count calls below a folder, of which one fails.

    `open` is replaced by Python's own implementation of `io`, which calls `os.open`, `os.read` and `os.write`.

    Attributes:
        calls: names of the calls so far.
        fail_at: index in `calls` of the failing call; -1 for none.
        error: error number of the failure; 0 for a kill.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fail_at = -1
        self.error = errno.EIO
        self._folder = str(folder)
        self._files: set[int] = set()
        self._dead = False
        for name in BY_PATH + BY_FILE:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        for module in (io, builtins):
            monkeypatch.setattr(module, "open", self._open(module.open))

    def restart(self, fail_at: int, error: int = errno.EIO) -> None:
        """Forget all calls, and let the call `fail_at` fail."""
        self.calls, self.fail_at, self.error, self._dead = [], fail_at, error, False

    def _open(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, *args: Any, **options: Any) -> Any:
            ours = file in self._files if isinstance(file, int) else self._is_below(file)
            return (_PYTHON_IO.open if ours else original)(file, *args, **options)

        return opened

    def _is_below(self, path: Any) -> bool:
        return os.fsdecode(path).startswith(self._folder)

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            target = args[1] if name in ("symlink", "link") else args[0]
            by_file = isinstance(target, int)
            if not (target in self._files if by_file else self._is_below(target)):
                return original(*args, **options)
            if self._dead:
                raise Killed
            self.calls.append(name)
            if len(self.calls) - 1 == self.fail_at:
                self._fail(name, original, args)
            # A real fsync is slow, and its effect would be seen only after a power failure.
            result: Any = None if name == "fsync" else original(*args, **options)
            if name == "open":
                self._files.add(result)
            return result

        return call

    def _fail(self, name: str, original: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Write half of the data if the call is a write, and raise the error."""
        if name == "write":
            original(args[0], bytes(args[1])[: len(args[1]) // 2])
        if not self.error:
            self._dead = True
            raise Killed
        raise OSError(self.error, os.strerror(self.error), None if name in BY_FILE else args[0])
