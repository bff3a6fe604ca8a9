"""Options of `serve` for engines on other machines that compute the completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from serve.options import Option
from serve.upstream.address import EngineAddress
from turbopilot.base.errors import InvalidInput
from turbopilot.base.option_values import parse_words


def parse_addresses(option: str, given: Sequence[str]) -> tuple[EngineAddress, ...]:
    """Return addresses such as "http://a:8000/v1,http://b:8000/v1"; raise InvalidInput if two are equal."""
    found = tuple(EngineAddress.parse(word, option) for word in parse_words(given))
    if len({a.name for a in found}) < len(found):
        raise InvalidInput(f"{option}: the same URL twice", hint="give each upstream once")
    return found


# A table, one option a field:
# fmt: off

@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """Engines that compute the completions in place of this process."""

    addresses: Annotated[tuple[EngineAddress, ...], Option(
        "--upstream", "Send completions to these engines instead of computing them: vLLM, SGLang, llama-server, "
        "llama-cpp-python, Ollama or another TurboPilot. MODEL then names only their tokenizer. Can be repeated.",
        metavar="URL,…", convert=parse_addresses,
    )] = ()
    model: Annotated[str | None, Option(
        "--upstream-model", "Model name to send to the upstreams. Default: the first one that each of them lists.",
        metavar="NAME",
    )] = None
    key: Annotated[str | None, Option(
        "--upstream-key", "API key to send to the upstreams. Other users of this machine can see it in the list of "
        "processes: use the environment variable TURBOPILOT_UPSTREAM_KEY instead.", metavar="KEY", is_secret=True,
    )] = field(default=None, repr=False)

# fmt: on
