"""Driver of PyPI's clients, run in the environment of scripts/test_clients.

The argument is {client, op, url, key, body}; results are JSON lines on stdout. `body` has the fields of an OpenAI
completion. Pieces of the text are {"text": ...}, names of models {"model": ...}, and the last line is {"ended": true}
or {"error": class, "message": ...}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Generator, Iterable
from typing import Any, ClassVar

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it is not fetched
os.environ.pop("HF_HUB_OFFLINE", None)  # also blocks loopback

STDOUT = sys.stdout
Body = dict[str, Any]
Stream = Generator[str, None, None]


class Driver:
    """A client. Methods that stream are generators that close the client's stream when they are closed."""

    names: ClassVar[dict[str, str]] = {}  # OpenAI's name of a field → the client's

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key

    def renamed(self, body: Body) -> Body:
        """Return the fields in the client's words."""
        return {self.names.get(k, k): v for k, v in body.items()}

    def plain(self, body: Body) -> str:
        raise NotImplementedError

    def stream(self, body: Body) -> Stream:
        raise NotImplementedError

    def models(self) -> Iterable[str]:
        raise NotImplementedError

    def cancel(self, body: Body) -> str:
        """Return the first piece of a stream, and close the stream."""
        with contextlib.closing(self.stream(body)) as pieces:
            return next(filter(None, pieces))


class AsyncDriver(Driver):
    """A client that cancels only asynchronous streams: it leaves the connection of a synchronous one open."""

    def pieces(self, body: Body) -> AsyncIterator[str]:
        raise NotImplementedError

    def cancel(self, body: Body) -> str:
        """Return the first piece of a stream, and cancel the task that reads it."""
        return asyncio.run(self._cancelled(body))

    async def _cancelled(self, body: Body) -> str:
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def read() -> None:
            async for text in self.pieces(body):
                if text and not found.done():
                    found.set_result(text)

        task = asyncio.create_task(read())
        await asyncio.wait((found, task), return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return await found


class Ollama(Driver):
    names: ClassVar = {"max_tokens": "num_predict"}

    def __init__(self, url: str, key: str) -> None:
        import ollama

        self.client = ollama.Client(url, headers={"Authorization": f"Bearer {key}"})

    def asked(self, body: Body) -> Body:
        own = {k: v for k, v in body.items() if k in ("model", "prompt", "suffix")}
        return {**own, "options": self.renamed({k: v for k, v in body.items() if k not in own})}

    def plain(self, body: Body) -> str:
        return str(self.client.generate(**self.asked(body)).response)

    def stream(self, body: Body) -> Stream:
        with contextlib.closing(self.client.generate(**self.asked(body), stream=True)) as parts:
            for part in parts:
                yield part.response

    def models(self) -> Iterable[str]:
        (listed,) = self.client.list().models
        assert listed.size > 0
        shown = self.client.show(listed.model)
        assert shown.details.family in shown.modelinfo["general.architecture"]
        assert "insert" in shown.capabilities
        yield listed.model
        yield from (m.model for m in self.client.ps().models)


class Mistral(Driver):
    def __init__(self, url: str, key: str) -> None:
        from mistralai.client import Mistral

        self.client = Mistral(api_key=key, server_url=url)

    def plain(self, body: Body) -> str:
        return str(self.client.fim.complete(**body).choices[0].message.content)

    def stream(self, body: Body) -> Stream:
        with self.client.fim.stream(**body) as events:
            for event in events:
                yield event.data.choices[0].delta.content or ""

    def models(self) -> Iterable[str]:
        (listed,) = self.client.models.list().data
        assert listed.type == "base"
        assert listed.capabilities.completion_fim
        yield listed.id
        yield self.client.models.retrieve(model_id=listed.id).id


class HuggingFace(Driver):
    names: ClassVar = {"max_tokens": "max_new_tokens"}

    def __init__(self, url: str, key: str) -> None:
        from huggingface_hub import InferenceClient

        self.client = InferenceClient(base_url=url, token=key)

    def asked(self, body: Body) -> Body:
        return self.renamed({k: v for k, v in body.items() if k != "model"})

    def plain(self, body: Body) -> str:
        found = self.client.text_generation(**self.asked(body), details=True)
        assert "".join(t.text for t in found.details.tokens) == found.generated_text
        return str(found.generated_text)

    def stream(self, body: Body) -> Stream:
        with self.client:
            yield from self.client.text_generation(**self.asked(body), stream=True)


class LangChain(AsyncDriver):
    def llm(self, body: Body) -> Any:
        from langchain_openai import OpenAI

        own = {k: v for k, v in body.items() if k not in ("prompt", "suffix")}
        suffix = {"suffix": body["suffix"]} if "suffix" in body else {}
        url = f"{self.url}/v1"
        return OpenAI(base_url=url, api_key=self.key, max_retries=0, model_kwargs=suffix, **own)

    def plain(self, body: Body) -> str:
        return str(self.llm(body).invoke(body["prompt"]))

    def stream(self, body: Body) -> Stream:
        yield from self.llm(body).stream(body["prompt"])

    def pieces(self, body: Body) -> AsyncIterator[str]:
        found: AsyncIterator[str] = self.llm(body).astream(body["prompt"])
        return found


class LiteLlm(AsyncDriver):
    def asked(self, body: Body) -> Body:
        model = f"text-completion-openai/{body['model']}"
        base = {"api_base": f"{self.url}/v1", "api_key": self.key, "num_retries": 0}
        return {**body, **base, "model": model}

    def plain(self, body: Body) -> str:
        import litellm

        return str(litellm.text_completion(**self.asked(body)).choices[0].text)

    def stream(self, body: Body) -> Stream:
        import litellm

        for chunk in litellm.text_completion(**self.asked(body), stream=True):
            yield chunk.choices[0].text or ""

    async def pieces(self, body: Body) -> AsyncIterator[str]:
        import litellm

        async for chunk in await litellm.atext_completion(**self.asked(body), stream=True):
            yield chunk.choices[0].text or ""


DRIVERS: dict[str, type[Driver]] = {
    "ollama": Ollama, "mistralai": Mistral, "huggingface_hub": HuggingFace, "langchain-openai": LangChain,
    "litellm": LiteLlm,
}  # fmt: skip


def say(value: object) -> None:
    STDOUT.write(json.dumps(value) + "\n")
    STDOUT.flush()


def run(driver: Driver, op: str, body: Body) -> None:
    if op == "models":
        for name in driver.models():
            say({"model": name})
    elif op == "stream":
        for text in driver.stream(body):
            say({"text": text})
    else:
        say({"text": driver.cancel(body) if op == "cancel" else driver.plain(body)})


def main() -> None:
    asked = json.loads(sys.argv[1])
    sys.stdout = sys.stderr  # keep the libraries' messages off stdout
    try:
        run(DRIVERS[asked["client"]](asked["url"], asked["key"]), asked["op"], asked["body"])
        say({"ended": True})
    except Exception as e:
        say({"error": type(e).__name__, "message": str(e)})
    sys.stdin.read()  # until its end, so that only the library can close the connection of a cancelled request


if __name__ == "__main__":
    main()
