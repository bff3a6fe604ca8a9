"""Engines that a front sends requests to, and its change to a new revision."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from turbopilot.cluster.members import (
    Member,
    Members,
    ReplicaBoard,
    board_of,
    newest_role,
    should_switch,
    urls_of,
)
from turbopilot.cluster.roles import Role


def engines(**revisions: int) -> Members:
    return tuple(Member(f"http://{name}", Role({}, n)) for name, n in revisions.items())


def test_role_survives_the_way_through_ray_as_json() -> None:
    member = Member(
        "http://a", Role({"model": "m.gguf", "ctx": 2048, "api_key": ["k"]}, 7, "secret")
    )
    assert Member.read(json.loads(json.dumps(member.plain()))) == member


def test_key_of_engines_is_not_in_the_text_of_a_role() -> None:
    assert "secret" not in repr(Role({}, 1, "secret"))


def test_only_engines_of_the_revision_get_requests() -> None:
    assert urls_of(engines(a=1, b=2, c=1), 1) == ("http://a", "http://c")


def test_newest_role_is_that_of_the_last_deployment() -> None:
    found = newest_role(engines(a=1, b=3, c=2))
    assert found is not None
    assert found.revision == 3
    assert newest_role(()) is None


@pytest.mark.parametrize(
    ("members", "current", "switches"),
    [
        (engines(a=2), None, True),  # the first deployment
        (engines(a=1, b=1, c=2), 1, False),  # one new engine could not carry the load of three
        (engines(a=1, c=2), 1, True),
        (engines(b=2, c=2), 1, True),
        (engines(a=1), 1, False),
        ((), 1, False),
        (engines(a=2), 2, False),
    ],
)
def test_front_switches_when_as_many_engines_are_new(
    members: Members, current: int | None, switches: bool
) -> None:
    assert should_switch(members, current, 2) is switches


def test_listener_gets_only_changes_of_ready_replicas() -> None:
    told: list[Any] = []
    board = ReplicaBoard()
    board.put([{"url": "a"}])
    board.listen(told.append)
    board.put([{"url": "a"}, {}])  # the second replica still starts
    board.put([{"url": "b"}])
    assert told == [({"url": "a"},), ({"url": "b"},)]


def test_wait_for_replicas_ends_when_they_are_there() -> None:
    board = board_of("an application")
    assert board is board_of("an application")
    found: list[Any] = []
    waiter = threading.Thread(
        target=lambda: found.append(board.wait_until(lambda found: len(found) == 2, 60))
    )
    waiter.start()
    board.put([{"url": "a"}])
    board.put([{"url": "a"}, {"url": "b"}])
    waiter.join(60)
    assert len(found[0]) == 2


def test_wait_for_missing_replicas_returns_those_that_run() -> None:
    board = ReplicaBoard()
    board.put([{"url": "a"}])
    assert board.wait_until(lambda found: len(found) == 2, 0.0) == ({"url": "a"},)
