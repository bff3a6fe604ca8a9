"""Thousands of bodies generated from `/openapi.json`: no server errors, and every response matches its schema.

`scripts/fuzz_server` does the same with Schemathesis, for any length of time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.api.openapi import description
from serve.llama import load
from serve.settings import Defaults, Limits, ModelOptions
from tests.support.described import BODIES, PATHS, Body, check_answer, validator
from tests.support.fakes import TalkingDecoder
from tests.support.fuzzed import bodies
from tests.support.serving import Running, ask, running

DOCUMENT: Any = json.loads(json.dumps(description(Defaults())))
LIMITS = Limits(max_tokens=3)
ASKED = st.sampled_from(sorted(BODIES)).flatmap(
    lambda name: st.tuples(
        st.just(name), bodies(DOCUMENT, {"$ref": f"#/components/schemas/{name}"}, BODIES[name])
    )
)
# Words in errors that a schema cannot express: unusable JSON schemas, invalid ids, contradicting fields, a cursor
# outside the file, and models that cannot predict edits.
BEYOND = (
    "schema", "prompt", "messages", "template", "token", "logit_bias", "best_of", "n times", "n_cmpl times",
    "cursor_position", "next-edit",
)  # fmt: skip


def check(r: Running, name: str, body: Body) -> None:
    path = PATHS[name]
    operation = DOCUMENT["paths"][path]["post"]
    status, headers, data = ask(r.port, "POST", path, body)
    check_answer(DOCUMENT, operation, status, headers, data)
    assert status in (200, 400, 404, 504), data  # 404: an unknown model to load or unload
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    if status == 400 and validator(DOCUMENT, schema).is_valid(body):
        error = json.loads(data)["error"]
        said = error if isinstance(error, str) else f"{error['param']} {error['message']}"
        # JSON's numbers have no limit; floats end at 1.8e308.
        is_huge = any(isinstance(v, int) and abs(v) > 10**308 for v in body.values())
        assert is_huge or any(word in said for word in BEYOND), said


def check_well(r: Running) -> None:
    assert r.runner.wait_until_idle(60)
    assert (r.runner.n_restarts, r.runner.failure) == (0, None)


@pytest.fixture(scope="module")
def fake() -> Iterator[Running]:
    with running(TalkingDecoder(), limits=LIMITS, max_open=256) as r:
        yield r
        check_well(r)
    r.runner.engine.check_integrity()


@pytest.fixture(scope="module")
def real(demo_gguf: Path) -> Iterator[Running]:
    options = ModelOptions(
        threads=1, ctx=512, n_batch=128, n_seq=4
    )  # the clients use the other core
    decoder, _ = load(demo_gguf, options)
    decoder.open_gate = lambda: None  # type: ignore[attr-defined]
    with running(decoder, limits=LIMITS, max_open=256) as r:  # type: ignore[arg-type]
        yield r
        check_well(r)
    r.runner.engine.check_integrity()
    decoder.close()


@settings(deadline=None, max_examples=500, suppress_health_check=list(HealthCheck))
@given(ASKED)
def test_hundreds_of_bodies_match_the_schema(fake: Running, asked: tuple[str, Body]) -> None:
    check(fake, *asked)


@pytest.mark.slow
@settings(deadline=None, max_examples=5000, suppress_health_check=list(HealthCheck))
@given(ASKED)
def test_thousands_of_bodies_match_the_schema(fake: Running, asked: tuple[str, Body]) -> None:
    check(fake, *asked)


@pytest.mark.slow
@settings(deadline=None, max_examples=3000, suppress_health_check=list(HealthCheck))
@given(ASKED)
def test_thousands_of_bodies_match_the_schema_with_a_real_model(
    real: Running, asked: tuple[str, Body]
) -> None:
    check(real, *asked)
