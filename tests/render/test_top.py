"""Lines of `turbopilot top`: what they show, their width and height, and hostile texts."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from serve.api.status import StatusAnswer
from tests.support.server_status import (
    request_times,
    sample,
    served_model,
    server_event,
    server_status,
    slot,
)
from turbopilot.client.server_status import StatusHistory
from turbopilot.render.live_screen import ScreenLine
from turbopilot.render.table import text_width
from turbopilot.render.top import screen

URL = "http://127.0.0.1:18080"
HOSTILE = "\x1b]0;title\x07\x1b[2J\n[bold red]<b>\u202e" + "汉" * 5000


def shown(
    width: int = 80, height: int | None = None, failure: str = "", **more: Any
) -> list[ScreenLine]:
    status = cast(StatusAnswer, server_status(**more))
    return screen(StatusHistory.beginning(status), URL, width, height, failure=failure)


def text(*arguments: Any, **more: Any) -> str:
    return "\n".join(line.text for line in shown(*arguments, **more))


def line_of(start: str, found: str) -> str:
    return next(line for line in found.splitlines() if line.startswith(start))


def test_speeds_are_shown_with_their_history() -> None:
    samples = [sample(i, prefill_speed=v, decode_speed=v / 2) for i, v in enumerate((0, 500, 1000))]
    found = text(samples=samples)
    assert line_of("prefill", found).split() == ["prefill", "1,000", "tokens/s", "▁▅█"]
    assert line_of("decode", found).split() == ["decode", "500", "tokens/s", "▁▅█"]


def test_last_known_value_is_shown() -> None:
    samples = [sample(0, first_token_ms=1500.0, accepted_share=0.25), sample(1)]
    for key in ("first_token_ms", "accepted_share", "cached_share", "cpu"):
        del samples[1][key]
    found = text(samples=samples)
    assert line_of("first token", found).split() == ["first", "token", "1.5", "s", "█"]
    assert line_of("drafts", found).split() == ["drafts", "25", "%", "▃"]
    assert "load unknown of 8 cores" in line_of("CPU", found)


def test_server_without_measurements_shows_none() -> None:
    found = text(samples=[], requests=[], events=[], models=[])
    assert "prefill" not in found
    assert "events" not in found


def test_memory_and_gpus_have_bars() -> None:
    found = text()
    assert "████······ 6.0 GB of 16.0 GB, server 2.0 GB, models ≤ 12.0 GB" in found
    assert line_of("GPU 0", found).endswith(
        "████······ 43 %, ██········ 4.0 GB of 24.0 GB, NVIDIA L4"
    )


def test_each_slot_has_a_character() -> None:
    assert "█▒·· 2/4" in text()
    many = [slot(i, request=i) for i in range(40)]
    assert f"{'▒' * 16} 40/40" in text(120, models=[served_model(slots=many)])


def test_failed_and_missing_engines_show_the_reason() -> None:
    upstream = {
        "name": "http://gpu-box:8000",
        "engine": "vLLM",
        "slots": 64,
        "in_flight": 3,
        "outcomes": {},
    }
    models = [
        served_model("broken", status="failed", reason="out of memory"),
        served_model("far", upstreams=[{**upstream, "status": "down"}]),
    ]
    lines = shown(models=models)
    assert ScreenLine("  out of memory", "red") in lines
    far = "  http://gpu-box:8000 (vLLM): down, 3 of 64 slots"
    assert ScreenLine(far, "yellow") in lines


def test_requests_and_events_are_shown_newest_first() -> None:
    requests = [request_times("a", total=11.0, why=""), request_times("b", total=22.0)]
    events = [server_event(1, "loading"), server_event(2, "failed", level="error")]
    lines = shown(requests=requests, events=events)
    totals = [line for line in lines if "llama.vscode" in line.text]
    assert ["22 ms" in totals[0].text, "11 ms" in totals[1].text] == [True, True]
    assert "waited for a free slot" in totals[0].text
    assert [t.style for t in totals] == ["yellow", ""]
    assert [line.text.split(": ")[1] for line in lines[-2:]] == ["failed", "loading"]
    assert lines[-2].style == "red"


def test_event_names_its_model_once() -> None:
    events = [server_event(1, "loaded a", model="a"), server_event(2, "x", model="b")]
    lines = shown(events=events)
    assert [line.text[10:] for line in lines[-2:]] == ["b: x", "loaded a"]


def test_refused_request_shows_its_status() -> None:
    found = text(100, requests=[request_times(reason="refused", status=503)])
    assert "refused 503" in found


def test_server_that_is_gone_is_reported() -> None:
    line = shown(failure="no server answers (Connection refused)")[1]
    assert re.fullmatch(
        r"gone since \d\d:\d\d:\d\d, trying again: no server answers \(Connection refused\)",
        line.text,
    )
    assert "red" in line.style


@pytest.mark.parametrize("width", [20, 40, 60, 80, 132])
def test_every_line_fits_the_terminal(width: int) -> None:
    requests = [request_times(str(i), client="汉" * 40) for i in range(30)]
    models = [served_model("m" * 100), served_model()]
    lines = shown(width, requests=requests, models=models)
    assert max(text_width(line.text) for line in lines) <= width


@pytest.mark.parametrize("height", [24, 40])
def test_requests_fill_the_terminal(height: int) -> None:
    requests = [request_times(str(i)) for i in range(90)]
    assert len(shown(80, height, requests=requests)) == height


def test_hostile_texts_are_escaped_and_cut() -> None:
    lines = shown(
        80, None, HOSTILE,
        version=HOSTILE, models=[served_model(HOSTILE, type=HOSTILE, reason=HOSTILE, status="failed")],
        requests=[request_times(HOSTILE, client=HOSTILE, model=HOSTILE, why=HOSTILE)],
        events=[server_event(1, HOSTILE, model=HOSTILE)],
    )  # fmt: skip
    assert all(line.text.isprintable() for line in lines)
    assert max(text_width(line.text) for line in lines) <= 80
    assert any(r"\x1b]0;title" in line.text for line in lines)


def test_numbers_without_limit_are_shown() -> None:
    huge = 10**400
    machine = server_status()["machine"]
    machine.update(memory_total=huge, memory_free=0, process_memory=huge, cores=huge, gpus=[])
    lines = shown(
        machine=machine, models=[served_model(memory=huge, running=huge)],
        samples=[sample(0, waiting=huge, running=huge, decode_speed=1e308, first_token_ms=1e308)],
        requests=[request_times(time=1e300, total=1e308, prompt_tokens=huge)], time=1e300,
    )  # fmt: skip
    assert max(text_width(line.text) for line in lines) <= 80


def test_many_models_are_counted() -> None:
    models = [served_model(f"m{i}") for i in range(20)]
    assert "and 8 more models" in text(models=models)
