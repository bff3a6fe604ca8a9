"""A front's change from one revision to the next, without Ray."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tests.cluster.test_members import engines
from turbopilot.base.errors import InvalidInput
from turbopilot.cluster.roles import Role
from turbopilot.cluster.version_switch import VersionSwitch


class FakeServed:
    """Revision that answers with its number."""

    def __init__(self, role: Role, urls: Sequence[str]) -> None:
        self.revision, self.urls = role.revision, tuple(urls)
        self.closed = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [str(self.revision).encode()]

    def replace(self, urls: Sequence[str]) -> None:
        self.urls = tuple(urls)

    def close(self) -> None:
        self.closed.set()


class Lab:
    """A switch whose revisions open when a test lets them."""

    def __init__(self) -> None:
        self.opened: dict[int, FakeServed] = {}
        self.gates: dict[int, threading.Event] = {}
        self.errors: dict[int, Exception] = {}
        self.done = threading.Semaphore(0)
        self.switch = VersionSwitch(self._open)

    def _open(self, role: Role, urls: Sequence[str]) -> FakeServed:
        try:
            if gate := self.gates.get(role.revision):
                assert gate.wait(60)
            if error := self.errors.get(role.revision):
                raise error
            self.opened[role.revision] = FakeServed(role, urls)
            return self.opened[role.revision]
        finally:
            self.done.release()

    def update(self, *, opens: bool, **revisions: int) -> None:
        """Report these engines; with `opens`, wait until their revision is open."""
        before = {t for t in threading.enumerate() if t.name == "turbopilot-open"}
        self.switch.update(engines(**revisions))
        if opens:
            self.join(before)

    def join(self, before: set[threading.Thread] = frozenset()) -> None:  # type: ignore[assignment]
        for thread in threading.enumerate():
            if thread.name == "turbopilot-open" and thread not in before:
                thread.join(60)

    def answer(self) -> tuple[str, str]:
        told: list[Any] = []
        body = self.switch({}, lambda *given: told.append(given))
        return told[0][0], b"".join(body).decode()


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_front_without_engines_answers_503(lab: Lab) -> None:
    status, body = lab.answer()
    assert status == "503 Service Unavailable"
    assert "no engine" in body


def test_first_engines_are_used(lab: Lab) -> None:
    lab.update(opens=True, a=1, b=1)
    assert lab.answer() == ("200 OK", "1")
    assert lab.opened[1].urls == ("http://a", "http://b")


def test_lost_engine_gets_no_further_requests(lab: Lab) -> None:
    lab.update(opens=True, a=1, b=1)
    lab.update(opens=False, b=1)
    assert lab.opened[1].urls == ("http://b",)


def test_new_revision_answers_when_it_has_as_many_engines(lab: Lab) -> None:
    lab.update(opens=True, a=1, b=1)
    lab.update(opens=True, a=1, b=1, c=2)
    assert lab.answer()[1] == "1"
    lab.update(opens=False, a=1, c=2)
    assert lab.answer()[1] == "2"
    assert lab.opened[2].urls == ("http://c",)
    assert lab.opened[1].closed.wait(60)


def test_leaving_engines_answer_until_the_new_revision_is_open(lab: Lab) -> None:
    lab.gates[2] = threading.Event()
    lab.update(opens=True, a=1)
    lab.update(
        opens=False, b=2
    )  # Ray has replaced the only engine, which still answers for some seconds
    assert lab.answer()[1] == "1"
    assert lab.opened[1].urls == ("http://a",)
    lab.gates[2].set()
    lab.join()
    assert lab.answer()[1] == "2"


def test_revision_that_cannot_be_opened_leaves_the_old_one(lab: Lab) -> None:
    lab.errors[2] = InvalidInput("no such file")
    lab.update(opens=True, a=1)
    lab.update(opens=True, a=1, b=2)
    assert lab.answer()[1] == "1"
    assert "no such file" in lab.switch.failure


def test_later_revision_overtakes_one_that_still_opens(lab: Lab) -> None:
    lab.gates[1] = threading.Event()
    lab.update(opens=False, a=1)
    lab.update(opens=False, a=1, b=2)
    assert lab.done.acquire(timeout=60)  # 2 is open
    lab.gates[1].set()
    lab.join()
    assert lab.answer()[1] == "2"
    assert lab.opened[1].closed.wait(60)


def test_close_ends_all_revisions(lab: Lab) -> None:
    lab.update(opens=True, a=1, b=1)
    lab.update(opens=True, a=1, b=1, c=2)
    lab.switch.close()
    assert lab.opened[1].closed.is_set()
    assert lab.opened[2].closed.is_set()
    assert lab.answer()[0].startswith("503")
