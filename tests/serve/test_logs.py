"""Log of requests: text and JSON formats, request ids, and prompts with --log-prompts."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from serve.http.request_log import (
    FIELDS,
    JsonFormatter,
    TextFormatter,
    choose_request_id,
    one_line,
    prompts_log,
    request_id,
)
from serve.log_options import LogOptions
from serve.options import read_settings
from serve.settings import SecurityOptions
from tests.support.fakes import FakeDecoder, script
from tests.support.serving import (
    ask,
    connection,
    flask_client,
    read_all,
    running,
    send,
    served,
    wait,
)
from tests.support.wire import POST
from turbopilot.base.errors import DecoderFailed, InvalidInput

NAME = "my-request.1"


@pytest.fixture(autouse=True)
def no_request() -> None:
    """Reset of the request id, which other tests in this thread may have left set."""
    request_id.set("")


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """All log output, as JSON lines."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield out
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def prompts_shown() -> Iterator[None]:
    level = prompts_log.level
    prompts_log.setLevel(logging.INFO)
    yield
    prompts_log.setLevel(level)


def read(lines: io.StringIO, logger: str = "") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in lines.getvalue().splitlines()]
    return [f for f in found if not logger or f["logger"] == logger]


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("turbopilot.x", logging.WARNING, "x.py", 1, message, args, None)
    vars(made).update(extra)
    return made


def test_text_format_shows_the_request_id() -> None:
    text = TextFormatter()
    assert text.format(record("hello %s", "you")).endswith(" WARNING hello you")
    named = record("hello", request_id="r1")
    assert text.format(named).endswith(" WARNING [r1] hello")
    assert named.getMessage() == "hello", "the formatter changed the record for other handlers"


def test_text_from_clients_cannot_forge_log_lines() -> None:
    wicked = "a\nINFO forged\r\x1b[2Jü\u2028\x85\ud800\\"
    shown = TextFormatter().format(record("%s", wicked))
    assert len(shown.splitlines()) == 1
    assert "\x1b" not in shown
    assert "ü" in shown
    assert shown.isprintable()
    (line,) = JsonFormatter().format(record("%s", wicked)).splitlines()
    assert json.loads(line)["message"] == wicked


def test_traceback_has_lines_in_text_and_one_field_in_json() -> None:
    try:
        raise ValueError("broke")
    except ValueError:
        broken = record("while testing", exc_info=sys.exc_info())
    text = TextFormatter().format(broken)
    assert text.splitlines()[0].endswith("while testing")
    assert text.splitlines()[-1] == "ValueError: broke"
    line = JsonFormatter().format(broken)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: broke")


def test_json_format_has_fields_and_request_id() -> None:
    found = json.loads(JsonFormatter().format(record("n = %d", 5, **{FIELDS: {"path": "/x"}})))
    assert found.pop("ts").endswith("Z")
    assert found == {
        "level": "warning", "logger": "turbopilot.x", "message": "n = 5", "path": "/x",
    }  # fmt: skip
    request_id.set("r2")
    try:
        assert json.loads(JsonFormatter().format(record("x")))["request_id"] == "r2"
    finally:
        request_id.set("")


def test_unknown_log_format_is_refused() -> None:
    assert read_settings(LogOptions, {"log_format": "JSON"}).form == "json"
    with pytest.raises(InvalidInput, match="--log-format yaml"):
        read_settings(LogOptions, {"log_format": "yaml"})


def test_one_line_escapes_only_unprintable_text() -> None:
    assert one_line("grün, 5 €") == "grün, 5 €"
    assert one_line("a\tb\n") == "a\\tb\\n"


def test_set_up_logs_json_to_stderr() -> None:
    code = (
        "import logging\nfrom serve.http.request_log import set_up, prompts_log\n"
        "from serve.log_options import LogOptions\n"
        "set_up(LogOptions('json'))\n"
        "logging.getLogger('turbopilot.x').info('hello')\nlogging.debug('no')\nprompts_log.info('no')\n"
        "set_up(LogOptions('json', prompts=True))\nprompts_log.info('asked for')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert messages == ["hello", "asked for"]


@pytest.mark.parametrize("given", ["a", "my-request.1", "Root=1-67891233-abcdef", "x" * 128])
def test_request_id_of_the_client_is_used(given: str) -> None:
    assert choose_request_id(given) == given


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 129, "a\nb", "a\n", "grün", "\x1b[0m"])
def test_invalid_request_id_is_replaced(given: str) -> None:
    made = choose_request_id(given)
    assert made != given
    assert made.isalnum()
    assert choose_request_id(given) != made


def test_every_response_has_its_request_id() -> None:
    with flask_client(SecurityOptions(api_keys=("k",), cors_origins=("https://a.b",))) as client:
        for path, headers, status in (
            ("/health", {}, 200), ("/nope", {"Authorization": "Bearer k"}, 404), ("/v1/models", {}, 401),
            ("/v1/models", {"Origin": "https://evil.com"}, 403), ("/v1/models", {"Host": "evil.com"}, 421),
        ):  # fmt: skip
            response = client.get(path, headers={"X-Request-Id": NAME, **headers})
            assert response.status_code == status
            assert response.headers["X-Request-Id"] == NAME
        made = [client.get("/health").headers["X-Request-Id"] for _ in range(2)]
        assert len({*made, NAME}) == 3


def test_log_line_has_path_status_time_and_tokens(lines: io.StringIO) -> None:
    with flask_client() as client:
        body = {"prompt": "well?"}
        client.post("/v1/completions?secret=1", json=body, headers={"X-Request-Id": NAME}).close()
        response = client.post("/v1/completions", json={**body, "stream": True})
        assert not read(lines, "turbopilot.access")[1:], "a stream was logged before it ended"
        response.get_data()
        response.close()
        client.get("/nope%0Aforged").close()
    whole, stream, nope = read(lines, "turbopilot.access")
    assert whole["request_id"] == NAME
    assert (whole["method"], whole["path"], whole["status"]) == ("POST", "/v1/completions", 200)
    assert whole["level"] == "info"
    assert whole["message"].startswith("POST /v1/completions 200 ")
    for line in (whole, stream):
        assert line["ms"] >= 0
        assert (line["prompt_tokens"], line["completion_tokens"]) == (5, 3)
    assert stream["request_id"] == response.headers["X-Request-Id"] != NAME
    assert (nope["status"], nope["path"]) == (404, "/nope\nforged")
    assert "\n" not in nope["message"]
    assert "prompt_tokens" not in nope
    assert "secret" not in lines.getvalue()


@pytest.mark.parametrize("path", ["/health", "/metrics", "/favicon.ico"])
def test_requests_of_monitors_are_logged_at_debug_unless_refused(
    lines: io.StringIO, path: str
) -> None:
    with flask_client(SecurityOptions(api_keys=("k",))) as client:
        headers = {"Authorization": "Bearer k"}
        client.get(path, headers=headers).close()
        client.get(path, headers=headers | {"Host": "evil.com"}).close()
    routine, refused = read(lines, "turbopilot.access")
    assert (routine["level"], routine["path"]) == ("debug", path)
    assert (refused["level"], refused["status"]) == ("info", 421)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reset", [False, True])
def test_cancelled_request_has_one_line(lines: io.StringIO, stream: bool, reset: bool) -> None:
    decoder = FakeDecoder(gate=threading.Semaphore(0), n_batch=64)
    with running(decoder) as r:
        with connection(r.port) as s:
            send(s, {"prompt": "x", "max_tokens": 200, "stream": stream})
            wait(r.runner.submitted)
            decoder.let(2)
            if stream:
                assert b"200 OK" in s.recv(65536)
            if reset:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait(r.runner.cancelled)
        while not read(lines, "turbopilot.access"):
            pass
    others = ("turbopilot.models",)  # the model was loaded
    (line,) = [f for f in read(lines) if f["level"] != "debug" and f["logger"] not in others]
    assert (line["path"], line["status"]) == ("/v1/completions", 200 if stream else 499)


def test_invalid_http_is_answered_and_logged_with_a_request_id(lines: io.StringIO) -> None:
    with running(FakeDecoder()) as r:
        for head, status in (
            (b"Content-Length: x\r\n", b"400"), (b"Content-Length: 99999999999\r\n", b"413"),
        ):  # fmt: skip
            for given in (b"X-Request-Id: %s\r\n" % NAME.encode(), b""):
                with connection(r.port) as s:
                    s.sendall(POST + given + head + b"Authorization: s3cret\r\n\r\n")
                    answer = read_all(s)
                assert answer.split()[1] == status
                (name,) = re.findall(rb"\r\nX-Request-Id: (\S+)\r\n", answer)
                assert name == NAME.encode() if given else name.isalnum()
                line = read(lines, "turbopilot.access")[-1]
                assert line["request_id"] == name.decode()
                assert (line["level"], line["status"]) == ("info", int(status))
    assert "s3cret" not in lines.getvalue()


def test_only_log_lines_of_a_request_have_its_id(lines: io.StringIO) -> None:
    failures = [DecoderFailed("boom")]
    decoder = FakeDecoder(script("yes"), fail=lambda _: failures.pop() if failures else None)
    with running(decoder) as r:
        headers = {"X-Request-Id": NAME}
        status, answer, _ = ask(r.port, "POST", "/v1/completions", {"prompt": "x"}, headers)
        assert (status, answer["X-Request-Id"]) == (500, NAME)
        status, answer, _ = ask(r.port, "GET", "/health")
        assert status == 200
    # Lines from the engine's thread belong to no single request.
    mine = [f for f in read(lines) if f["logger"] in ("turbopilot.http", "turbopilot.access")]
    named = sorted(f.get("request_id", "") for f in mine)
    assert named == sorted([NAME, NAME, answer["X-Request-Id"]])
    assert [f["request_id"] for f in mine if f["level"] == "error"] == [NAME]
    assert not any("exception" in f for f in mine)  # an expected error needs no traceback


def test_request_id_is_reset_after_the_last_log_line(lines: io.StringIO) -> None:
    def app(_environ: object, _start: object) -> list[bytes]:
        logging.getLogger("turbopilot.x").info("begins")
        request_id.set(NAME)
        raise ValueError("broke")

    with served(app, threads=1) as port:
        assert [ask(port, "GET", "/")[0] for _ in range(2)] == [500, 500]
    assert [f.get("request_id") for f in read(lines, "turbopilot.x")] == [None, None]
    said = [f for f in read(lines, "waitress") if "exception" in f]
    assert [f["request_id"] for f in said] == [NAME, NAME]


def test_request_ids_of_streams_are_not_mixed_up(lines: io.StringIO) -> None:
    names = [f"stream-{i}" for i in range(6)]
    with running(FakeDecoder(n_seq=2, n_ctx=64)) as r:
        for name in names:
            with connection(r.port) as s:
                headers = f"X-Request-Id: {name}\r\nConnection: close\r\n"
                send(s, {"prompt": name, "max_tokens": 3, "stream": True}, headers=headers)
                answer = read_all(s)
            assert b"X-Request-Id: " + name.encode() + b"\r\n" in answer
    assert [f["request_id"] for f in read(lines, "turbopilot.access")] == names


def test_prompts_are_not_logged_by_default(lines: io.StringIO) -> None:
    with flask_client() as client:
        client.post("/v1/completions", json={"prompt": "s3cret", "suffix": "s3cret"}).close()
        response = client.post("/v1/completions", json={"prompt": "s3cret", "stream": True})
        response.get_data()
    assert read(lines, "turbopilot.access")
    assert "s3cret" not in lines.getvalue()


@pytest.mark.usefixtures("prompts_shown")
def test_prompts_and_completions_are_logged_with_log_prompts(lines: io.StringIO) -> None:
    decoder = FakeDecoder(script('a"\\\n\x1b', after="?"))
    files = [{"filename": "b\n.py", "text": "x = 1\n"}]
    with flask_client(SecurityOptions(api_keys=("s3cret",)), decoder) as client:
        headers = {"X-Request-Id": NAME, "Authorization": "Bearer s3cret"}
        for stream in (False, True):
            body = {"prompt": "one\ntwo?", "n": 2, "stream": stream}
            client.post("/v1/completions", json=body, headers=headers).get_data()
        body = {"input_prefix": "p\n", "input_suffix": "s\n", "input_extra": files, "n_predict": 1}
        client.post("/infill", json=body, headers=headers).get_data()
        client.post("/v1/completions", json={"prompt": [104, 105]}, headers=headers).get_data()
    found = read(lines, "turbopilot.prompts")
    said = [f["message"] for f in found]
    once = ["prompt: one\\ntwo?"] + [f'answer {i}: a"\\\\\\n\\x1b' for i in range(2)]
    assert said[:6] == once * 2
    assert "suffix: s\\n" in said
    assert "file b\\n.py: x = 1\\n" in said
    assert "prompt: hi" in said
    assert {f["request_id"] for f in found} == {NAME}
    assert {f["level"] for f in found} == {"info"}
    assert "s3cret" not in lines.getvalue()
    assert all(len(TextFormatter().format(record("%s", m)).splitlines()) == 1 for m in said)


@pytest.mark.usefixtures("prompts_shown")
def test_completion_is_logged_if_the_client_disconnects(lines: io.StringIO) -> None:
    with flask_client() as client:
        response = client.post("/v1/completions", json={"prompt": "well?", "stream": True})
        assert next(iter(response.response))
        response.close()
    assert "answer 0: " in lines.getvalue()
