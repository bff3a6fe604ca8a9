"""Radix tree over token sequences, to find the longest common prefixes.

Each holder (a slot of the KV cache, or a cached prefix in RAM or on disk) has one sequence. Nodes hold runs of tokens,
so a lookup compares one list slice per node, not one token at a time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

H = TypeVar("H", bound=Hashable)


def common_prefix(a: list[int], b: list[int]) -> int:
    """Return the length of the common prefix of two lists."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    # Binary search compares slices in C. A Python loop over thousands of tokens takes as long as computing one token.
    low, high = 0, n  # a[:low] is common, a[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


class _Node(Generic[H]):
    """A run of tokens, the holders whose sequences include all of it, and the continuations."""

    __slots__ = ("children", "holders", "parent", "tokens")

    def __init__(self, tokens: list[int], parent: _Node[H] | None) -> None:
        self.tokens = tokens
        self.parent = parent
        self.children: dict[int, _Node[H]] = {}
        self.holders: set[H] = set()

    def split(self, at: int) -> _Node[H]:
        """Split the run at `at`; return the new parent node with the first part."""
        assert self.parent
        upper: _Node[H] = _Node(self.tokens[:at], self.parent)
        upper.holders = set(self.holders)
        self.parent.children[upper.tokens[0]] = upper
        self.tokens, self.parent = self.tokens[at:], upper
        upper.children[self.tokens[0]] = self
        return upper


class PrefixTree(Generic[H]):
    """The sequences of all holders."""

    def __init__(self) -> None:
        self._root: _Node[H] = _Node([], None)
        self._ends: dict[H, _Node[H]] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def __contains__(self, holder: H) -> bool:
        return holder in self._ends

    def insert(self, holder: H, tokens: Sequence[int]) -> None:
        """Set the sequence of a holder. With an empty sequence, remove the holder."""
        self.remove(holder)
        if not tokens:
            return
        rest = list(tokens)
        node = self._root
        while rest:
            child = node.children.get(rest[0])
            if child is None:
                child = _Node(rest, node)
                node.children[rest[0]] = child
            else:
                shared = common_prefix(child.tokens, rest)
                if shared < len(child.tokens):
                    child = child.split(shared)
            child.holders.add(holder)
            rest = rest[len(child.tokens) :]
            node = child
        self._ends[holder] = node

    def remove(self, holder: H) -> None:
        """Remove a holder if it is in the tree."""
        node: _Node[H] | None = self._ends.pop(holder, None)
        while node and node.parent:
            node.holders.discard(holder)
            parent = node.parent
            if not node.holders:
                del parent.children[node.tokens[0]]
            elif len(node.children) == 1:
                self._join(node)
            node = parent

    def _join(self, node: _Node[H]) -> None:
        """Merge a node with its only child if no sequence ends between them."""
        (child,) = node.children.values()
        if child.holders == node.holders:  # no sequence ends at the node
            node.tokens = node.tokens + child.tokens
            node.children = child.children
            for grandchild in node.children.values():
                grandchild.parent = node
            for holder in child.holders:
                if self._ends[holder] is child:
                    self._ends[holder] = node

    def match(self, tokens: Sequence[int]) -> Iterator[tuple[int, frozenset[H]]]:
        """Yield (length of the common prefix with `tokens`, holders), the longest first. Each holder appears once."""
        wanted = list(tokens)
        found: list[tuple[int, _Node[H]]] = []
        node, depth = self._root, 0
        while depth < len(wanted) and (child := node.children.get(wanted[depth])):
            shared = common_prefix(child.tokens, wanted[depth : depth + len(child.tokens)])
            depth += shared
            found.append((depth, child))
            if shared < len(child.tokens):
                break
            node = child
        seen: set[H] = set()
        for depth, node in reversed(found):
            new = node.holders - seen
            if new:
                seen |= new
                yield depth, frozenset(new)
