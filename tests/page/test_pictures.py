"""Pictures of the page for README.md and docs/; scripts/test_page --pictures writes them to docs/img."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.clients.exchange import Sent
from tests.clients.live import Live, wait_until
from tests.page.conftest import OpenPage, TakePicture
from tests.page.watched import Screen
from tests.serve.test_editors import CAPTURED, NOT_SERVED
from tests.support.serving import ask

pytestmark = pytest.mark.page

MOST_BYTES = 150_000
"""Maximum size of a picture."""

# Samples of the charts: some minutes for a picture that is kept.
SAMPLES = 150 if os.environ.get("TURBOPILOT_PICTURES") else 2
WAVES = (1, 2, 1, 3, 5, 2, 1, 4, 1, 2)
"""Numbers of requests at a time, in turn: a queue that grows and shrinks."""

EDITED = [
    s for s in CAPTURED if s.body and s.max_tokens and s.path not in NOT_SERVED | {"/v1/events"}
]
HOP_HEADERS = {"host", "content-length", "authorization", "connection", "transfer-encoding"}

modes = pytest.mark.parametrize("mode", ["", "-dark"])


def screen(mode: str, height: int) -> Screen:
    return Screen(1200, height, dark=bool(mode), scale=1.5)


@contextmanager
def editors_at_work(live: Live) -> Iterator[None]:
    """Send the recorded requests of real editors, again and again, until the block ends."""
    done = threading.Event()
    requests = itertools.cycle(EDITED)

    def send(sent: Sent) -> None:
        headers = {k: v for k, v in sent.headers.items() if k.lower() not in HOP_HEADERS}
        ask(live.port, sent.method, sent.path, sent.body, headers)

    def work() -> None:
        with ThreadPoolExecutor(max(WAVES)) as pool:
            for n in itertools.takewhile(lambda _: not done.is_set(), itertools.cycle(WAVES)):
                list(pool.map(send, itertools.islice(requests, n)))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def samples(live: Live) -> int:
    _, data = live.ask("GET", "/status")
    return len(json.loads(data)["samples"])


@modes
def test_picture_of_the_playground(
    open_page: OpenPage, live: Live, picture: TakePicture, mode: str
) -> None:
    page = open_page(live.url, "playground", screen(mode, 560))
    page.get_by_text("tokens/s").wait_for()
    assert page.locator(".tp-ghost").inner_text()
    assert picture(page, f"page-playground{mode}").stat().st_size <= MOST_BYTES


@modes
def test_picture_of_the_status(
    open_page: OpenPage, live: Live, picture: TakePicture, mode: str
) -> None:
    with editors_at_work(live):
        page = open_page(live.url, "status", screen(mode, 900))
        wait_until(lambda: samples(live) >= SAMPLES)
        recent = page.get_by_role("region", name="Recent requests").last
        recent.locator("tbody tr").first.wait_for()
        files = [picture(page, f"page-status{mode}"), picture(recent, f"page-requests{mode}")]
    assert max(file.stat().st_size for file in files) <= MOST_BYTES


@modes
def test_picture_of_the_set_up(
    open_page: OpenPage, live: Live, picture: TakePicture, mode: str
) -> None:
    page = open_page(live.url, "setup", screen(mode, 760))
    page.get_by_role("button", name="llama.vscode").click()
    page.get_by_role("button", name="Send the request").click()
    page.get_by_text("The editor would show this completion").wait_for()
    page.locator(".completion").scroll_into_view_if_needed()
    assert picture(page, f"page-setup{mode}").stat().st_size <= MOST_BYTES
