"""Problems that the watch of a page finds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tests.page.conftest import OpenPage
from tests.page.watched import Watch
from tests.support.serving import served

pytestmark = pytest.mark.page


def page_with(html: str) -> Any:
    def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        policy = "script-src 'self'; style-src 'self'"
        head = [("Content-Type", "text/html"), ("Content-Security-Policy", policy)]
        start("200 OK" if environ["PATH_INFO"] == "/" else "404 Not Found", head)
        return [html.encode() if environ["PATH_INFO"] == "/" else b""]

    return app


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ("<script>1</script>", "Content Security Policy"),
        ("<p style='color: red'>", "Content Security Policy"),
        ("<img src='/missing.png'>", "status of 404"),
        ("<img src='http://127.0.0.1:9/x.png'>", "another host: http://127.0.0.1:9/x.png"),
    ],
)
def test_problem_of_a_page_is_found(
    open_page: OpenPage, watch: Watch, html: str, problem: str
) -> None:
    with served(page_with(f"<link rel=icon href=data:,>{html}")) as port:
        page = open_page(f"http://127.0.0.1:{port}")
        page.evaluate("1")  # its events arrive before the answer
    assert any(problem in found for found in watch.problems), watch.problems
    watch.allow("")


def test_console_errors_and_exceptions_are_found(open_page: OpenPage, watch: Watch) -> None:
    with served(page_with("<link rel=icon href=data:,>")) as port:
        page = open_page(f"http://127.0.0.1:{port}")
        page.evaluate("console.warn('fine')")
        assert watch.problems == []
        page.evaluate("console.error('broken')")
        with page.expect_event("pageerror"):
            page.evaluate("setTimeout(() => { throw new Error('thrown') })")
    console, exception = watch.problems
    assert console.startswith("console: broken")
    assert exception == "exception: thrown"
    watch.allow("broken|thrown")
