#!/usr/bin/env python3
"""Measure the server's page in a headless Chromium: when it is interactive, and how long typing takes.

    scripts/test_page --co -q  # installs Playwright into .venv/page
    .venv/page/bin/python scripts/bench_page.py [--keys 300] [--json FILE]

Typing is measured in a file of 3,000 lines, with 40 ms between two keys, while the server streams completions: from the
time of the key's event to the end of the page's work for it, with which the text is in the document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.clients.live import live_server
from tests.support.chromium import installed_browser

LINE = "    result = transform(value, factor=2)  # a line of the file\n"
TEXT = "total = sum(item.price for item in items)\n"
# Messages are handled after microtasks, in which CodeMirror updates the document and the screen.
WATCH = """() => {
  window.delays = [];
  let pressed = 0;
  addEventListener("keydown", (event) => (pressed = event.timeStamp), true);
  addEventListener("input", () => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => delays.push(performance.now() - pressed);
    port2.postMessage(0);
  }, true);
}"""
LOADED = "() => performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"


def measure(page: Page, url: str, n_keys: int) -> dict[str, Any]:
    """Return the measurements in milliseconds."""
    requests: list[str] = []
    page.on("request", lambda r: requests.append(r.url))
    page.goto(url)
    page.locator(".tp-ghost").wait_for(timeout=60_000)
    interactive = page.evaluate(LOADED)
    page.keyboard.press("ControlOrMeta+a")
    page.evaluate("(text) => navigator.clipboard.writeText(text)", LINE * 3000)
    page.keyboard.press("ControlOrMeta+v")
    for _ in range(20):
        page.keyboard.press("PageUp")
    page.keyboard.press("End")
    page.evaluate(WATCH)
    typed = (TEXT * (n_keys // len(TEXT) + 1))[:n_keys]
    for start in range(0, n_keys, 8):  # a pause after 8 keys, in which a completion begins
        page.keyboard.type(typed[start : start + 8].replace("\n", " "), delay=40)
        page.wait_for_timeout(300)
    delays = sorted(page.evaluate("delays"))
    return {
        "interactive_ms": round(interactive),
        "keys": len(delays),
        "median_ms": round(statistics.median(delays), 1),
        "p95_ms": round(delays[int(0.95 * len(delays))], 1),
        "max_ms": round(delays[-1], 1),
        "requests_while_typing": sum(url.endswith("/v1/completions") for url in requests) - 1,
    }


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=300, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    browser_path = installed_browser()
    if browser_path is None:
        parser.error("no Chromium or Chrome was found")
    with (
        tempfile.TemporaryDirectory() as cache,
        live_server(Path(cache)) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
        found = measure(context.new_page(), server.url, given.keys)
        browser.close()
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
