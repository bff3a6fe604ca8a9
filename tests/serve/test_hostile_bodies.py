"""Malformed and extreme JSON bodies, and malformed X-TurboPilot headers, over real sockets (see `test_hostile`)."""

from __future__ import annotations

import json

import pytest

from tests.support.serving import connection
from tests.support.wire import BODY, POST, answer, said, with_length


def many(n: int) -> str:
    return json.dumps({str(i): 1 for i in range(n)})


def forbidden(n: int) -> bytes:
    return json.dumps({str(i): False for i in range(n)}).encode()


DEEP = b"[" * 500 + b"]" * 500
BODIES: dict[str, tuple[bytes, int]] = {
    "10,000 stop strings": (b'{"prompt":"x","stop":%s}' % json.dumps([f"s{i}" for i in range(10_000)]).encode(), 400),
    "a stop string of 1 MB": (b'{"prompt":"x","stop":"%s"}' % (b"ab" * 500_000), 400),
    "empty stop strings": (b'{"prompt":"x","stop":["","",""]}', 200),
    "a lone surrogate in the prompt": (rb'{"prompt":"\ud800"}', 200),
    "lone surrogates in many fields": (
        rb'{"prompt":"\udfff","suffix":"\ud800","model":"\ud800","stop":["\udc00"],"user":"\ud800"}', 200
    ),
    "a lone surrogate in logit_bias": (rb'{"prompt":"x","logit_bias":{"\ud800":1}}', 200),
    "a lone surrogate in a field's name": (rb'{"prompt":"x","\ud800":1}', 200),
    "a lone surrogate as an invalid value": (rb'{"prompt":"x","n":"\ud800"}', 400),
    "a lone surrogate in a schema": (rb'{"prompt":"x","json_schema":{"$ref":"#/definitions/\ud800"}}', 400),
    "a lone surrogate in a pattern": (rb'{"prompt":"x","json_schema":{"type":"string","pattern":"\ud800"}}', 400),
    "a lone surrogate in UTF-8": (b'{"prompt":"\xed\xa0\x80"}', 200),
    "NUL in the prompt": (rb'{"prompt":"a\u0000b","suffix":"\u0000"}', 200),
    "a raw NUL in the prompt": (b'{"prompt":"a\0b"}', 400),
    "invalid UTF-8": (b'{"prompt":"\xff\xfe"}', 400),
    "UTF-16": ('{"prompt":"x"}'.encode("utf-16"), 200),
    "a UTF-8 byte order mark": (b'\xef\xbb\xbf{"prompt":"x"}', 200),
    "nested 100,000 deep": (b'{"prompt":"x","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "objects nested 100,000 deep": (b'{"x":' * 100_000 + b"1" + b"}" * 100_000, 400),
    "nested 500 deep": (b'{"prompt":"x","x":' + DEEP + b"}", 200),
    "a prompt nested 500 deep": (b'{"prompt":' + DEEP + b"}", 400),
    "a schema nested 500 deep": (b'{"prompt":"x","json_schema":{"x":' + DEEP + b"}}", 400),
    "1e400": (b'{"prompt":"x","temperature":1e400}', 400),
    "NaN": (b'{"prompt":"x","temperature":NaN}', 400),
    "Infinity": (b'{"prompt":"x","temperature":Infinity}', 400),
    "a number of 400 digits": (b'{"prompt":"x","temperature":1' + b"0" * 400 + b"}", 400),
    "a number of 5000 digits": (b'{"prompt":"x","seed":1' + b"0" * 5000 + b"}", 400),
    "a deadline of 400 digits": (b'{"prompt":"x","deadline_ms":1' + b"0" * 400 + b"}", 400),
    "deadlines of 1e308": (b'{"prompt":"x","deadline_ms":1e308,"t_max_predict_ms":1e308}', 200),
    "a penalty of 400 digits": (b'{"prompt":"x","presence_penalty":-1' + b"0" * 400 + b"}", 400),
    "negative max_tokens": (b'{"prompt":"x","max_tokens":-1}', 400),
    "max_tokens of 2**70": (b'{"prompt":"x","max_tokens":1180591620717411303424}', 200),
    "max_tokens of 1e300": (b'{"prompt":"x","max_tokens":1e300}', 200),
    "true for a number": (b'{"prompt":"x","max_tokens":true}', 400),
    "large numbers in many fields": (
        b'{"prompt":"x","top_k":1180591620717411303424,"repeat_last_n":1180591620717411303424,'
        b'"n_indent":1180591620717411303424,"seed":-1180591620717411303424,"repeat_penalty":1.5,'
        b'"temperature":1e308}',
        200,
    ),
    "some tokens forbidden": (b'{"prompt":"x","temperature":1e308,"top_p":1,"logit_bias":{"97":-100,"98":false}}', 200),
    "nearly all tokens forbidden": (
        b'{"prompt":"x","temperature":1e308,"top_p":0.5,"logit_bias":%s}' % forbidden(250), 200
    ),
    "temperature just above 0": (b'{"prompt":"x","temperature":1e-300,"top_p":1}', 200),
    "all tokens forbidden": (b'{"prompt":"x","logit_bias":%s}' % forbidden(260), 400),
    "repeated fields": (b'{"prompt":7,"prompt":"x","n":0,"n":1}', 200),
    "4096 biases": (f'{{"prompt":"x","logit_bias":{many(4096)}}}'.encode(), 200),
    "4097 biases": (f'{{"prompt":"x","logit_bias":{many(4097)}}}'.encode(), 400),
    "100,000 biases": (f'{{"prompt":"x","logit_bias":{many(100_000)}}}'.encode(), 400),
    "a bias for 1 MB of text": (b'{"prompt":"x","logit_bias":{"%s":1}}' % (b"ab" * 500_000), 400),
    "a bias for an id of 400 digits": (b'{"prompt":"x","logit_bias":[[1' + b"0" * 400 + b",1]]}", 200),
    "out-of-vocabulary token ids": (b'{"prompt":[2147483647]}', 400),
    "a million token ids": (b'{"prompt":[' + b"1," * 1_000_000 + b"1]}", 200),
    "a prompt of 7 MB": (b'{"prompt":"%s"}' % (b"x" * 7_000_000), 200),
    "an empty body": (b"", 400),
    "spaces": (b" " * 1_000_000, 400),
    "an unterminated string": (b'{"prompt":"', 400),
    "two bodies": (BODY + BODY, 400),
}  # fmt: skip


@pytest.mark.parametrize(("body", "wanted"), BODIES.values(), ids=BODIES.keys())
def test_extreme_body_has_the_expected_status(port: int, body: bytes, wanted: int) -> None:
    if wanted == 200 and b"max_tokens" not in body and body[:1] == b"{":
        body = b'{"max_tokens":3,' + body[1:]
    assert said(port, with_length(body))[0] == wanted


def test_invalid_value_is_refused_at_any_nesting_depth(port: int) -> None:
    with connection(port) as s:
        for depth in range(
            800, 1100
        ):  # includes the depths at which json.dumps and json.loads fail
            s.sendall(with_length(b'{"prompt":{"x":' + b"[" * depth + b"]" * depth + b"}}"))
            assert answer(s)[0] == 400


@pytest.mark.parametrize(
    "deadline",
    [b"0", b"-1", b"-5", b"1e3", b"1.5", b"\xb2", b"\xd9\xa3", b"0" * 5000 + b"1", b"1" * 5000, b"9" * 40, b"x",
     b"soon", b"1, 2", b"000000000001" + b"9" * 5000],
)  # fmt: skip
def test_invalid_deadline_is_rejected(port: int, deadline: bytes) -> None:
    head = POST + b"X-TurboPilot-Deadline-Ms: " + deadline + b"\r\n"
    status, body = said(port, with_length(BODY, head))
    assert status == 400
    assert json.loads(body)["error"]["param"] == "X-TurboPilot-Deadline-Ms"


def test_any_session_name_is_accepted(port: int) -> None:
    for name in (b"\xff\xfe", b"a" * 60_000, b'";\\'):
        head = POST + b"X-TurboPilot-Session: " + name + b"\r\n"
        assert said(port, with_length(BODY, head))[0] == 200
