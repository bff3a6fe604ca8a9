"""Which grammars may be given to llama.cpp: those that it bears. Pure.

llama.cpp was not made for grammars from strangers. Some make it loop for ever, or eat all memory: "x{3,2}", a rule that
comes back to itself behind one that may be empty, 30 rules that begin with either of two of the next. Deep brackets
overflow its stack. These are refused here.

What is not seen: a grammar so ambiguous that the number of ways to read a text grows with the text. No look at the
grammar alone can tell.
"""

from __future__ import annotations

from serve.sampling.gbnf import Alternatives, read_gbnf, refusal

MAX_CHARACTERS = 1 << 16
MAX_BRANCHES = 10_000  # ways from a rule to its first characters: llama.cpp walks each of them

Edge = tuple[int, bool]  # a rule that another begins with, and whether something follows it there


def check_gbnf(text: str) -> None:
    """Let a grammar pass.

    Raises:
        InvalidRequest: it is no GBNF, lacks a root, or is one that llama.cpp could not bear.
    """
    if len(text) > MAX_CHARACTERS:
        raise refusal(f"it has {len(text)} characters, of at most {MAX_CHARACTERS}")
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise refusal("it holds characters that are no text")
    rules, numbers = read_gbnf(text)
    beginnings = _beginnings(rules, _nullable(rules))
    groups = _groups([[to for to, _ in edges] for edges, _ in beginnings])
    group_of = {rule: i for i, group in enumerate(groups) for rule in group}
    names = {number: name for name, number in numbers.items()}

    n_branches: list[int] = []  # of each group; those that it leads to come before it
    for i, group in enumerate(groups):
        n = 1
        for rule in group:
            edges, n_characters = beginnings[rule]
            n += n_characters + 1
            for to, followed in edges:
                if group_of[to] != i:
                    n += n_branches[group_of[to]]
                elif followed:
                    # Each turn would put what follows on llama.cpp's stack, without end.
                    named = next((f" {names[r]!r}" for r in group if r in names), "")
                    raise refusal(f"the rule{named} can begin with itself (left recursion)")
        if n > MAX_BRANCHES:
            raise refusal(f"a rule can begin in more than {MAX_BRANCHES} ways")
        n_branches.append(n)


def _nullable(rules: list[Alternatives]) -> list[bool]:
    """Which rules can be empty."""
    empty = [False] * len(rules)
    users: dict[
        int, list[tuple[int, list[int]]]
    ] = {}  # rule → (a rule, how many others must be empty for it)
    found = []
    for rule, alternatives in enumerate(rules):
        for sequence in alternatives:
            if all(e >= 0 for e in sequence):
                left = [len(sequence)]
                for e in sequence:
                    users.setdefault(e, []).append((rule, left))
                if not sequence:
                    found.append(rule)
    while found:
        rule = found.pop()
        if empty[rule]:
            continue
        empty[rule] = True
        for user, left in users.get(rule, ()):
            left[0] -= 1
            if left[0] == 0:
                found.append(user)
    return empty


def _beginnings(rules: list[Alternatives], empty: list[bool]) -> list[tuple[list[Edge], int]]:
    """Of each rule: the rules that it can begin with, and the number of its alternatives that begin otherwise."""
    found = []
    for alternatives in rules:
        edges: list[Edge] = []
        n_characters = 0
        for sequence in alternatives:
            for at, element in enumerate(sequence):
                if element < 0:
                    n_characters += 1
                    break
                edges.append((element, at + 1 < len(sequence)))
                if not empty[element]:
                    break
        found.append((edges, n_characters))
    return found


def _groups(graph: list[list[int]]) -> list[list[int]]:
    """Strongly connected components, each after all that it leads to. Tarjan's algorithm, without recursion."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    waiting: list[int] = []
    grouped: set[int] = set()
    groups: list[list[int]] = []
    for start in range(len(graph)):
        if start in index:
            continue
        path = [(start, iter(graph[start]))]
        index[start] = low[start] = len(index)
        waiting.append(start)
        while path:
            node, edges = path[-1]
            for to in edges:
                if to not in index:
                    index[to] = low[to] = len(index)
                    waiting.append(to)
                    path.append((to, iter(graph[to])))
                    break
                if to not in grouped:
                    low[node] = min(low[node], index[to])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == index[node]:
                    at = _last(waiting, node)
                    groups.append(waiting[at:])
                    grouped.update(waiting[at:])
                    del waiting[at:]
    return groups


def _last(items: list[int], item: int) -> int:
    at = len(items) - 1
    while items[at] != item:
        at -= 1
    return at
