"""A byte-level BPE's merges, found again from the order of its tokens. Pure; knows no file.

A vocabulary that was trained grows by one merge at a time, so that each token, in the order of the ids, is
made of two earlier ones: those that its own letters come to under the merges before it. So the merges that
a file leaves out are no guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise


def recover_merges(tokens: Iterable[str]) -> Iterator[tuple[str, str] | None]:
    """For each token the merge that makes it; None where there is none (a letter, or not a product of merging).

    Args:
        tokens: texts in the letters of byte-level BPE, by id.

    >>> list(recover_merges(["a", "b", "c", "ab", "abc", "<x>", "cc"]))
    [None, None, None, ('a', 'b'), ('ab', 'c'), None, ('c', 'c')]
    """
    ranks: dict[tuple[str, str], int] = {}
    known: set[str] = set()
    for token in tokens:
        merge = None
        if len(token) > 1 and token not in known:
            parts = merged(token, ranks)
            if len(parts) == 2 and parts[0] in known and parts[1] in known:
                merge = (parts[0], parts[1])
                ranks[merge] = len(ranks)
        if merge or len(token) == 1:
            known.add(token)
        yield merge


def merged(text: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """The parts that a text's letters come to: the pair of the lowest rank first, the leftmost of equals.

    >>> merged("abcab", {("a", "b"): 0, ("ab", "c"): 1})
    ['abc', 'ab']
    """
    parts = list(text)
    while len(parts) > 1:
        pairs = [ranks.get(pair, len(ranks)) for pair in pairwise(parts)]
        best = min(pairs)
        if best == len(ranks):
            break
        at = pairs.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
