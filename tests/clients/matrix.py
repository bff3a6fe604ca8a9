"""Which clients are tried against a live server, and what each of them can be asked to do. Data only.

A test says which cell of the matrix it proves: `@pytest.mark.cell("curl", "stream")`. docs/clients.md is written
from what those tests found, by `scripts/test_clients --write-docs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CAPABILITIES: Mapping[str, str] = {
    "plain": "an answer in one piece",
    "stream": "an answer token by token; at temperature 0 it is the same text",
    "FIM": "the text after the cursor is taken into account",
    "cancel": "the client gives up half-way, and the server stops computing",
    "auth": "a key is asked for: the right one is let in, a wrong one is not",
}


@dataclass(frozen=True, slots=True)
class Client:
    """A client that runs without a person; `cannot` and `notes` say of a capability why not, or what to know."""

    key: str
    name: str
    source: str
    how: str
    cannot: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


CLIENTS = (
    Client("openai-python", "openai for Python", "PyPI", "blocking, asynchronous and raw"),
    Client("openai-node", "openai for Node", "npm", "a script of a few lines"),
    Client(
        "llm", "llm", "PyPI", "its command, with an entry in extra-openai-models.yaml",
        notes={
            "FIM": "by the model's own tokens in the prompt: it has no option for a suffix",
            "cancel": "by Ctrl-C",
        },
    ),
    Client(
        "tabby-agent", "tabby-agent", "npm",
        "its command, JSON lines in and out, as Tabby's plugins for Vim and IntelliJ drive it",
        {"stream": "it reads answers in one piece only"},
        {"auth": "of a wrong key it says `unauthorized`, and its plugin asks for another"},
    ),
    Client(
        "continue-fetch", "@continuedev/fetch", "npm",
        "the HTTP and SSE reader of Continue, in a script of a few lines",
    ),
    Client("curl", "curl", "the system", "its command, `-N` for streams"),
    Client(
        "llama.vim", "llama.vim in Vim", "github.com/ggml-org/llama.vim",
        "Vim in a terminal, typed into until the suggestion is on the screen",
        {"stream": "it asks for answers in one piece only"},
        {
            "cancel": "by leaving Vim: what a keystroke made useless it lets end by itself",
            "auth": "with a wrong key it shows nothing, and no error either",
        },
    ),
)  # fmt: skip


def cells() -> set[tuple[str, str]]:
    """Every (client, capability) that a test has to prove."""
    return {(c.key, what) for c in CLIENTS for what in CAPABILITIES if what not in c.cannot}
