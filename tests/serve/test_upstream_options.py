"""Options and addresses of upstreams, and the connections to them."""

from __future__ import annotations

import threading
from http.client import LineTooLong
from pathlib import Path

import pytest

from serve.model_choice import ModelChoice
from serve.options import read_settings
from serve.settings import ServerOptions
from serve.upstream.address import EngineAddress
from serve.upstream.client import BROKEN, EngineClient, EngineStream
from serve.upstream.upstream_set import UpstreamSet
from serve.upstream_options import UpstreamOptions
from tests.support.engines import EngineExchange, always, engines, listed, llama_routes
from tests.support.fakes import FakeDecoder
from turbopilot.app.served_models import certificate_lines, with_models
from turbopilot.app.vocabulary import resolve_vocabulary
from turbopilot.base.errors import InvalidInput
from turbopilot.base.progress import Reporter
from turbopilot.formats.gguf.file import read_gguf


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a:8000/v1", "http://a:8000"), ("http://a:8000", "http://a:8000"), ("http://a", "http://a:80"),
        ("https://a/v1/", "https://a:443"), ("http://[::1]:1/v1", "http://[::1]:1"),
        ("https://a/engines/b/v1", "https://a:443/engines/b"),
    ],
)  # fmt: skip
def test_url_of_an_upstream_has_one_spelling(url: str, name: str) -> None:
    assert EngineAddress.parse(url).name == name


@pytest.mark.parametrize(
    "url", ["a:8000", "ftp://a/v1", "http://", "http://a:x", "http://a:99999", "http://a/v1?x=1", "http://u:p@a/v1"]
)  # fmt: skip
def test_bad_url_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(InvalidInput, match="--upstream") as caught:
        EngineAddress.parse(url)
    assert caught.value.hint
    assert ":p@" not in caught.value.message


def test_upstreams_are_a_list_with_commas_or_repeated() -> None:
    given = {"upstream": ["http://a:1/v1,http://b:2/v1", "http://c:3"]}
    names = [a.name for a in read_settings(UpstreamOptions, given).addresses]
    assert names == ["http://a:1", "http://b:2", "http://c:3"]
    with pytest.raises(InvalidInput, match="twice"):
        read_settings(UpstreamOptions, {"upstream": ["http://a:1/v1,http://a:1"]})


def test_key_is_not_shown() -> None:
    options = read_settings(UpstreamOptions, {"upstream_key": "secret"})
    assert options.key == "secret"
    assert "secret" not in repr(options)


OPTIONS = ServerOptions(Path(), upstream=UpstreamOptions((EngineAddress.parse("http://a:1"),)))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (ModelChoice(), "needs MODEL"), (ModelChoice("demo", draft="x"), "--draft"),
        (ModelChoice("demo", lora=("x",)), "--lora"), (ModelChoice("demo", named=("a=b",)), "--model"),
    ],
)  # fmt: skip
def test_options_that_contradict_upstreams_are_refused(choice: ModelChoice, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        with_models(OPTIONS, choice, Reporter())


def test_only_the_tokenizer_of_a_checkpoint_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_gguf: Path
) -> None:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path))
    file = resolve_vocabulary("demo", Reporter())
    assert file == resolve_vocabulary("demo", Reporter())
    header = read_gguf(file)
    assert not header.tensors
    assert header.metadata["general.name"] == "turbopilot-demo"
    key = "tokenizer.ggml.tokens"
    assert header.metadata[key] == read_gguf(demo_gguf).metadata[key]
    assert not list(certificate_lines(OPTIONS, Reporter()))


def test_file_of_a_tokenizer_needs_no_weights(demo_gguf: Path) -> None:
    assert with_models(OPTIONS, ModelChoice(str(demo_gguf)), Reporter()).model_file == demo_gguf


def test_connection_closed_by_the_upstream_is_replaced() -> None:
    def once(e: EngineExchange) -> None:
        e.reply({})
        e.break_off()

    with engines({"/x": once}) as (engine,):
        client = EngineClient(engine.address)
        for _ in range(3):
            assert client.ask("/x")[0] == 200
        client.close()


def test_endless_line_is_an_error() -> None:
    def endless(e: EngineExchange) -> None:
        e.begin()
        while True:
            e.send(b"x" * 65536)

    with engines({"/x": endless}) as (engine,):
        client = EngineClient(engine.address)
        stream = EngineStream(client)
        assert stream.start("/x", b"{}", 60) == 200
        with pytest.raises(LineTooLong, match="an event"):
            stream.line(60)
        stream.close()
        client.close()


def test_stream_is_cancelled_before_its_response_begins() -> None:
    asked, go = threading.Event(), threading.Event()

    def late(e: EngineExchange) -> None:
        asked.set()
        assert go.wait(60)
        e.reply({})

    with engines({"/x": late}) as (engine,):
        client = EngineClient(engine.address)
        stream = EngineStream(client)

        def cancel() -> None:
            assert asked.wait(60)
            stream.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(BROKEN):
            stream.start("/x", b"{}", 60)
        canceller.join()
        stream.close()
        client.close()
        go.set()


def test_cancelled_stream_sends_nothing() -> None:
    with engines({"/x": always({})}) as (engine,):
        client = EngineClient(engine.address)
        stream = EngineStream(client)
        stream.cancel()
        with pytest.raises(ConnectionAbortedError):
            stream.start("/x", b"{}", 60)
        stream.close()
        client.close()
        assert not engine.seen


def test_thread_checks_new_upstreams_at_once() -> None:
    checked = threading.Event()
    routes = llama_routes()

    def models(e: EngineExchange) -> None:
        listed("llamacpp")(e)
        checked.set()

    routes["/v1/models"] = models
    with engines(routes) as (engine,):
        upstreams = UpstreamSet((), FakeDecoder())
        assert upstreams.trouble == "there is no upstream"
        upstreams.start()
        upstreams.replace([engine.url])
        assert checked.wait(60)
        upstreams.close()
