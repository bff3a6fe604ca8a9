"""Clients that are tested against a live server, and the capabilities of each. Data only.

A test names the cell of the matrix that it covers: `@pytest.mark.cell("curl", "stream")`.
`scripts/test_clients --write-docs` writes docs/clients.md from the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CAPABILITIES: Mapping[str, str] = {
    "plain": "a whole response as JSON",
    "stream": "a response streamed token by token; at temperature 0 its text equals that of the plain response",
    "FIM": "the completion takes the suffix into account",
    "cancel": "the client cancels the request, and the server stops the generation",
    "auth": "the server requires an API key: it accepts the right key and rejects a wrong one",
}


@dataclass(frozen=True, slots=True)
class Client:
    """Client that a program can drive; `cannot` and `notes` map a capability to a reason or a remark."""

    key: str
    name: str
    source: str
    how: str
    cannot: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


_ASYNC = "by cancelling an asynchronous task; it leaves the connection of a synchronous stream open"
_MODELS = "it also lists the models and reads their details"

CLIENTS = (
    Client("openai-python", "openai for Python", "PyPI", "its synchronous, asynchronous and raw interfaces"),
    Client(
        "ollama", "ollama for Python", "PyPI", "a short script",
        notes={"plain": _MODELS},
    ),
    Client(
        "mistralai", "mistralai for Python", "PyPI", "a short script, with Mistral's fill-in-the-middle",
        notes={"plain": _MODELS},
    ),
    Client(
        "huggingface_hub", "huggingface_hub's InferenceClient", "PyPI", "a short script",
        notes={"FIM": "with the model's FIM tokens in the prompt, because it has no parameter for a suffix"},
    ),
    Client("langchain-openai", "LangChain's OpenAI", "PyPI", "a short script", notes={"cancel": _ASYNC}),
    Client("litellm", "LiteLLM", "PyPI", "a short script", notes={"cancel": _ASYNC}),
    Client("openai-node", "openai for Node", "npm", "a short script"),
    Client(
        "llm", "llm", "PyPI", "its command line, with an entry in extra-openai-models.yaml",
        notes={
            "FIM": "with the model's FIM tokens in the prompt, because llm has no option for a suffix",
            "cancel": "with Ctrl-C",
        },
    ),
    Client(
        "tabby-agent", "tabby-agent", "npm",
        "its command line with JSON lines on stdin and stdout, like Tabby's plugins for Vim and IntelliJ",
        {"stream": "tabby-agent reads only plain responses"},
        {"auth": "with a wrong key it reports `unauthorized`, and its plugin asks for another key"},
    ),
    Client(
        "continue-fetch", "@continuedev/fetch", "npm",
        "a short script with Continue's HTTP and SSE reader",
    ),
    Client("curl", "curl", "the system", "its command line, with `-N` for streams"),
    Client(
        "llama.vim", "llama.vim in Vim", "github.com/ggml-org/llama.vim",
        "keys typed into Vim in a terminal until the completion is on the screen",
        {"stream": "llama.vim requests only plain responses"},
        {
            "cancel": "by leaving Vim; requests that a keystroke makes obsolete run to their end",
            "auth": "with a wrong key it shows neither a completion nor an error",
        },
    ),
)  # fmt: skip


def cells() -> set[tuple[str, str]]:
    """Return each (client, capability) that a test must cover."""
    return {(c.key, what) for c in CLIENTS for what in CAPABILITIES if what not in c.cannot}
