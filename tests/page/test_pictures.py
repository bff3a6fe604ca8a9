"""Pictures of the page for README.md and docs/; scripts/test_page --pictures writes them to docs/img."""

from __future__ import annotations

import http.client
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients.exchange import Sent
from tests.clients.live import PATIENCE, Live
from tests.page.conftest import OpenPage, TakePicture
from tests.page.watched import Screen
from tests.serve.test_editors import CAPTURED, NOT_SERVED
from tests.support.serving import ask

pytestmark = pytest.mark.page

MOST_BYTES = 150_000
"""Maximum size of a picture."""

# Samples of the charts: some minutes for a picture that is kept.
SAMPLES = 100 if os.environ.get("TURBOPILOT_PICTURES") else 2
WAVES = (1, 2, 1, 3, 5, 2, 1, 4, 1, 2)
"""Numbers of requests at a time, in turn: a queue that grows and shrinks."""

EDITED = [
    s for s in CAPTURED if s.body and s.max_tokens and s.path not in NOT_SERVED | {"/v1/events"}
]
HOP_HEADERS = {"host", "content-length", "authorization", "connection", "transfer-encoding"}


def screen(height: int) -> Screen:
    return Screen(1200, height, scale=1.5)


def size(file: Path) -> int:
    return file.stat().st_size


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


def wait_for_samples(live: Live) -> None:
    """Wait until the server has taken enough samples; it sends each as an event."""
    c = http.client.HTTPConnection("127.0.0.1", live.port, timeout=PATIENCE)
    c.request("GET", "/status/stream")
    events = (line for line in c.getresponse() if line.startswith(b"data:"))
    assert len(list(itertools.islice(events, SAMPLES))) == SAMPLES
    c.close()


def test_picture_of_the_playground(open_page: OpenPage, live: Live, picture: TakePicture) -> None:
    page = open_page(live.url, "playground", screen(600))
    page.get_by_text("tokens/s").wait_for()
    assert page.locator(".tp-ghost").inner_text()
    for scheme, name in (("light", "page-playground"), ("dark", "page-playground-dark")):
        page.emulate_media(color_scheme=scheme)
        assert size(picture(page, name)) <= MOST_BYTES


def test_pictures_of_the_status(open_page: OpenPage, live: Live, picture: TakePicture) -> None:
    with editors_at_work(live):
        page = open_page(live.url, "status", screen(900))
        wait_for_samples(live)
        recent = page.get_by_role("region", name="Recent requests").last
        recent.locator("tbody tr").first.wait_for()
        assert size(picture(page, "page-status")) <= MOST_BYTES
        assert size(picture(recent, "page-requests")) <= MOST_BYTES


def test_picture_of_the_set_up(open_page: OpenPage, live: Live, picture: TakePicture) -> None:
    page = open_page(live.url, "setup", screen(820))
    page.get_by_role("button", name="llama.vscode").click()
    page.get_by_role("button", name="Send the request").click()
    page.get_by_text("The editor would show this completion").wait_for()
    page.locator(".completion").scroll_into_view_if_needed()
    assert size(picture(page, "page-setup")) <= MOST_BYTES
