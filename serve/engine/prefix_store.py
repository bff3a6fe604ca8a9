"""The prefix cache: KV states of prefixes that lost their slot, kept in RAM, and on disk across restarts."""

from __future__ import annotations

import hashlib
import logging
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serve.adapters import AdapterSet
from serve.engine.prefix_file import read_prefix, read_tokens, write_prefix
from serve.metrics import PrefixState
from serve.prefix_tree import PrefixTree
from turbopilot.base.errors import TurboPilotError

log = logging.getLogger("turbopilot.engine")

SUFFIX = ".prefix"
# Edits to a document leave prefixes that differ only at the end. A new prefix replaces an older one if it lacks at most
# this many of its tokens: they are cheaper to compute than to keep.
FEW = 32


@dataclass(slots=True)
class _Entry:
    """A cached prefix: its tokens with the mark of their adapters; `state` is empty until it is read from the file."""

    tokens: tuple[int, ...]
    state: bytes
    file: Path | None = None
    n_file: int = 0
    n_uses: int = 1
    n_hits: int = 0
    value: float = 0.0
    stored: float = 0.0
    last_used: float = 0.0

    @property
    def n_bytes(self) -> int:
        return len(self.state) + 8 * len(self.tokens)


class PrefixStore:
    """Cached prefixes by key; if there is no room, the least valuable are dropped.

    The value of a prefix is the number of tokens that it saves for each byte, times the number of its uses, plus the
    value of the last prefix dropped before its last use: what was not used for long loses against new prefixes. Source:
    GreedyDual-Size with Frequency (Cherkasova, HPL-98-69R1).

    Args:
        max_bytes: limit in RAM, and the same limit on disk; 0 disables the store.
        identity: the decoder's identity; files of other decoders are not touched.
        folder: folder for the files; None keeps prefixes in RAM only.
        can_cut: whether the decoder can use a part of a state; otherwise only whole prefixes are found.
        clock: returns seconds.
    """

    def __init__(
        self,
        max_bytes: int,
        identity: str = "",
        folder: Path | None = None,
        *,
        can_cut: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_bytes, self._can_cut, self._clock = max_bytes, can_cut, clock
        self.n_bytes = 0
        self._identity = _short(identity)
        self._folder = folder if max_bytes else None  # a disabled store touches no files
        self.n_hits = self.n_dropped = 0  # states given, and dropped for lack of room
        self._entries: dict[int, _Entry] = {}
        self._age = 0.0  # value of the last prefix dropped
        self._tree: PrefixTree[int] = PrefixTree()
        self._next_key = 0
        if self._folder:
            self._index(self._folder)

    def reset(self, identity: str) -> None:
        """Drop all prefixes, because the decoder cannot restore them any more; `identity` is its new one."""
        for key in list(self._entries):
            self.drop(key)
        self._identity = _short(identity)

    @property
    def keeps(self) -> bool:
        """Whether the store is enabled."""
        return self.max_bytes > 0

    def __len__(self) -> int:
        return len(self._entries)

    def states(self) -> tuple[PrefixState, ...]:
        """Return what is stored. Callable from any thread, without a lock: numbers may come from different moments."""
        now = self._clock()
        return tuple(
            PrefixState(
                len(e.tokens) - _n_marked(e.tokens), len(e.state) or e.n_file, max(0.0, now - e.stored),
                max(0.0, now - e.last_used), e.n_hits,
            )
            for e in self._entries.copy().values()
        )  # fmt: skip

    def longest(self, tokens: list[int], adapters: AdapterSet = ()) -> tuple[int, int] | None:
        """Return (number of shared tokens, key) of the best cached prefix; None if no prefix shares any token.

        Only prefixes that were computed with the same adapters are found.
        """
        mark = _mark(adapters)
        for n, keys in self._tree.match([*mark, *tokens]):
            usable = [k for k in keys if self._can_cut or len(self._entries[k].tokens) == n]
            if usable and n > len(mark):
                return n - len(mark), max(usable)
        return None

    def covers(self, tokens: list[int], adapters: AdapterSet = ()) -> bool:
        """Return whether one cached prefix holds all of these tokens."""
        best = self.longest(tokens, adapters)
        return best is not None and best[0] == len(tokens)

    def put(self, tokens: Sequence[int], state: bytes, adapters: AdapterSet = ()) -> None:
        """Store a prefix that was computed with these adapters.

        Replace older prefixes of which it lacks only a few tokens; drop the least valuable if there is no room.
        """
        if not state or len(state) + 8 * len(tokens) > self.max_bytes:
            return
        entry = _Entry((*_mark(adapters), *tokens), state)
        # A state that cannot be cut does not replace the shorter ones.
        shared = list(self._tree.match(entry.tokens)) if self._can_cut else []
        for n, keys in shared:
            for key in keys:
                if len(self._entries[key].tokens) - n <= min(FEW, n // 8):
                    entry.n_uses += self._entries[key].n_uses
                    self.drop(key)
        self._add(entry)

    def get(self, key: int) -> bytes | None:
        """Return a prefix's state; None if the prefix was dropped or its file is damaged."""
        entry = self._entries.get(key)
        if entry is None:  # dropped since it was looked up
            return None
        self.n_hits += 1
        entry.n_hits += 1
        entry.n_uses += 1
        entry.last_used = self._clock()
        self._value(entry)
        if not entry.state and entry.file:
            try:
                entry.state = read_prefix(entry.file, self._identity)
            except (OSError, ValueError) as e:
                log.warning("%s: cached prefix ignored: %s", entry.file, e)
                self.drop(key)
                return None
            self.n_bytes += len(entry.state)
            self._shrink(keep=key)
        return entry.state

    def drop(self, key: int) -> None:
        """Drop a prefix; do nothing if it is already gone."""
        if entry := self._entries.pop(key, None):
            self._tree.remove(key)
            self.n_bytes -= entry.n_bytes

    def close(self) -> None:
        """Write prefixes from RAM to files, the most valuable first, and delete files of dropped prefixes."""
        if not self._folder:
            return
        kept: set[Path] = set()
        left = self.max_bytes
        for entry in sorted(self._entries.values(), key=lambda e: -e.value):
            size = entry.n_bytes if entry.state else entry.n_file
            if size > left:
                continue
            try:
                kept.add(entry.file or self._write(self._folder, entry))
                left -= size
            except (OSError, TurboPilotError) as e:
                log.warning("the prefix cache could not be saved: %s", e)
                break
        for path in self._folder.glob(f"{self._identity}-*{SUFFIX}"):
            if path not in kept:
                path.unlink(missing_ok=True)

    def _write(self, folder: Path, entry: _Entry) -> Path:
        digest = hashlib.sha256(repr(entry.tokens).encode()).hexdigest()[:24]
        path = folder / f"{self._identity}-{digest}{SUFFIX}"
        write_prefix(path, self._identity, entry.tokens, entry.state)
        return path

    def _index(self, folder: Path) -> None:
        """Add an entry with its tokens for each file; states are read when they are needed."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = sorted(
            folder.glob(f"{self._identity}-*{SUFFIX}"), key=lambda p: p.stat().st_mtime_ns
        )
        for path in files:
            try:
                tokens = read_tokens(path, self._identity)
            except (OSError, ValueError) as e:
                log.warning("%s: cached prefix ignored: %s", path, e)
                continue
            self._add(_Entry(tokens, b"", path, path.stat().st_size))

    def _add(self, entry: _Entry) -> None:
        key, self._next_key = self._next_key, self._next_key + 1
        entry.stored = entry.last_used = self._clock()
        self._entries[key] = entry
        self._value(entry)
        self._tree.insert(key, entry.tokens)
        self.n_bytes += entry.n_bytes
        self._shrink(keep=key)

    def _shrink(self, keep: int) -> None:
        while self.n_bytes > self.max_bytes and len(self._entries) > 1:
            key = min((k for k in self._entries if k != keep), key=lambda k: self._entries[k].value)
            self._age = self._entries[key].value
            self.n_dropped += 1
            self.drop(key)

    def _value(self, entry: _Entry) -> None:
        n_bytes = len(entry.state) or entry.n_file
        entry.value = self._age + entry.n_uses * len(entry.tokens) / max(1, n_bytes)


def _mark(adapters: AdapterSet) -> tuple[int, ...]:
    """Return numbers that stand in front of the tokens of prefixes computed with these adapters.

    They differ from all tokens: each adapter has a negative number, followed by its scale.
    """
    (*bits,) = struct.unpack(
        f"<{len(adapters)}i", struct.pack(f"<{len(adapters)}f", *(scale for _, scale in adapters))
    )
    return tuple(n for (i, _), b in zip(adapters, bits, strict=True) for n in (-1 - i, b))


def _n_marked(tokens: Sequence[int]) -> int:
    """Return the length of the mark in front of the tokens of a prefix; see `_mark`."""
    return next((i for i in range(0, len(tokens), 2) if tokens[i] >= 0), len(tokens))


def _short(identity: str) -> str:
    """Return the 16 characters that stand for a decoder's identity in files."""
    return hashlib.sha256(identity.encode()).hexdigest()[:16]
