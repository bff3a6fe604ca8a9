"""Parts of the status without threads and sockets: times of requests, measurements, settings, names and counts."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.api.client_report import sweep_report, tabby_report
from serve.api.status import RequestTimes, StatusSample
from serve.engine.prefix_store import PrefixStore
from serve.log_options import LogOptions
from serve.metrics import EngineMetrics, PrefixState
from serve.model_choice import ModelChoice
from serve.models.status import EVENT_MODEL
from serve.request import EndDetail, Finished, FinishReason, Usage
from serve.runner.request_ends import RequestEnds
from serve.settings import ServerOptions
from serve.shown_options import shown_options
from serve.status.client_name import client_name
from serve.status.client_reports import MOST_CLIENTS, OTHER, ClientReports
from serve.status.counters import Counters, measured
from serve.status.event_log import MOST_EVENTS, EventLog
from serve.status.finished_requests import MOST_REQUESTS, FinishedRequests
from serve.status.request_times import (
    ENOUGH,
    FinishedRequest,
    TimeParts,
    end_of,
    parts_of,
    request_times,
    usual_seconds,
    why,
)
from turbopilot.base.graphics import Host
from turbopilot.base.load import CpuTimes, GpuLoad, cpu_load, cpu_times, gpu_loads, process_bytes

R = FinishedRequest("r1", 1e9, "/v1/completions", "curl", "m", 200, "stop", 10.0)
USAGE = Usage(2048, 20, 208, prompt_seconds=2.0, predict_seconds=1.0, queue_seconds=0.5)


def test_parts_of_a_request_add_up_to_its_total() -> None:
    found = parts_of(replace(R, load=3.0, usage=USAGE))
    assert found == TimeParts(load=3.0, queue=0.5, prefill=2.0, decode=1.0, other=3.5)


seconds = st.floats(0, 1e6)


@given(seconds, seconds, seconds | st.none(), seconds, seconds, st.integers(0, 9), st.booleans())
def test_parts_always_add_up(
    total: float,
    load: float,
    queue: float | None,
    prefill: float,
    decode: float,
    n: int,
    is_cut: bool,
) -> None:
    usage = Usage(9, n, prompt_seconds=prefill, predict_seconds=decode, queue_seconds=queue)
    asked = replace(
        R, total=total, load=load, usage=usage, reason="cancelled" if is_cut else "stop"
    )
    p = parts_of(asked)
    parts = (p.load, p.queue, p.prefill, p.decode, p.other)
    assert min(parts) >= 0
    assert sum(parts) == pytest.approx(total)


def test_wait_for_the_engines_thread_is_part_of_the_queue() -> None:
    assert parts_of(replace(R, inbox=1.5, usage=USAGE)).queue == 2.0


def test_request_that_ends_early_spent_its_time_in_the_stage_that_it_reached() -> None:
    waits = replace(R, reason="cancelled", load=1.0, usage=Usage(5, 0))
    assert parts_of(waits) == TimeParts(load=1.0, queue=9.0)
    reads = replace(waits, usage=Usage(5, 0, queue_seconds=2.0))
    assert parts_of(reads) == TimeParts(load=1.0, queue=2.0, prefill=7.0)
    assert parts_of(replace(waits, reason="refused", usage=None)) == TimeParts(load=1.0, other=9.0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"load": 9.0}, "waited 9.0 s for the model to load"),
        ({"usage": replace(USAGE, queue_seconds=6.0)}, "waited 6.0 s in the queue"),
        (
            {"usage": replace(USAGE, queue_seconds=6.0), "n_ahead": 3},
            "waited 6.0 s in the queue behind 3 requests",
        ),
        (
            {"usage": replace(USAGE, prompt_seconds=8.0)},
            "read 1,840 of 2,048 prompt tokens, 208 in the cache",
        ),
        (
            {"usage": Usage(1, 0, prompt_seconds=8.0, queue_seconds=0.0)},
            "read 1 of 1 prompt token, none in the cache",
        ),
        ({"usage": replace(USAGE, predict_seconds=5.0)}, "generated 20 tokens, 4 a second"),
        ({"usage": USAGE}, "6.5 s for reading the request, its prompt and sending the answer"),
        ({"usage": USAGE, "reason": "refused"}, ""),
    ],
)
def test_slow_request_is_explained_by_its_longest_part(changes: dict[str, Any], text: str) -> None:
    asked = replace(R, **changes)
    assert why(asked, parts_of(asked), 1.0) == text
    assert why(asked, parts_of(asked), 5.0) == "", "a usual time was explained"


def test_only_loading_explains_the_first_requests() -> None:
    loads = replace(R, load=9.0)
    assert why(loads, parts_of(loads), None).startswith("waited 9.0 s for the model")
    decodes = replace(R, usage=replace(USAGE, predict_seconds=9.0))
    assert why(decodes, parts_of(decodes), None) == ""
    assert usual_seconds([1.0] * (ENOUGH - 1)) is None
    assert usual_seconds([1.0, 2.0, 3.0, 4.0, 500.0]) == 3.0


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ([("stop", "")], "stop"), ([("stop", ""), ("length", "")], "length"),
        ([("length", "deadline"), ("stop", "")], "deadline"), ([("error", "deadline")], "deadline"),
        ([("cancelled", "superseded"), ("cancelled", "")], "superseded"),
        ([("cancelled", ""), ("error", "")], "error"),
    ],
)  # fmt: skip
def test_end_of_several_completions_is_the_worst(
    ends: list[tuple[FinishReason, EndDetail]], reason: str
) -> None:
    assert end_of([Finished(r, Usage(1, 1), how=how) for r, how in ends]) == reason


def test_last_requests_are_kept_with_milliseconds_and_explained_by_the_median() -> None:
    requests = FinishedRequests()
    for i in range(MOST_REQUESTS + 5):
        requests.add(replace(R, id=str(i), total=0.2, usage=Usage(3, 2, predict_seconds=0.1)))
    requests.add(replace(R, total=0.5, usage=replace(USAGE, queue_seconds=0.4)))
    latest = requests.latest
    assert len(latest) == MOST_REQUESTS
    assert latest[0]["id"] == "6"
    assert (latest[0]["total"], latest[0]["decode"], latest[0]["why"]) == (200.0, 100.0, "")
    assert latest[-1]["why"] == "waited 0.4 s in the queue"


def test_shown_request_has_only_the_declared_fields() -> None:
    shown = request_times(replace(R, usage=USAGE, is_low=True), None)
    assert set(shown) == set(RequestTimes.__annotations__)
    assert (shown["prompt_tokens"], shown["cached_tokens"], shown["is_low"]) == (2048, 208, True)


def test_ends_call_back_once_all_requests_have_ended() -> None:
    called: list[int] = []
    ends = RequestEnds(2)
    ends.add(1, Finished("stop", Usage(1, 1)))
    ends.when_all(lambda: called.append(len(ends.lasts)))
    assert called == []
    ends.add(0, Finished("cancelled", Usage(2, 0)))
    assert called == [2]
    ends.when_all(lambda: called.append(0))
    assert called == [2, 0]
    assert {i: u.prompt_tokens for i, u in ends.usages.items()} == {0: 2, 1: 1}


SAMPLE: StatusSample = {
    "time": 0.0, "running": 0, "waiting": 0, "prefill_speed": 0.0, "decode_speed": 0.0
}  # fmt: skip


def test_speeds_and_shares_follow_from_the_counters() -> None:
    m = EngineMetrics(n_cells=100)
    before = Counters.total([m])
    # One request: 90 of 100 prompt tokens computed, then 20 tokens in 14 steps: 10 drafted, 6 of them accepted.
    m.prompt_tokens, m.cached_tokens, m.generated_tokens = 100, 10, 20
    m.drafted_tokens, m.accepted_tokens, m.batch_tokens = 10, 6, 90 + 14 + 10
    m.first_token_seconds.observe(0.25)
    found = measured(Counters.total([m]).since(before), 2.0, SAMPLE)
    assert (found["prefill_speed"], found["decode_speed"]) == (45.0, 10.0)
    assert (found["first_token_ms"], found["cached_share"]) == (250.0, 0.1)
    assert found["accepted_share"] == 0.6


def test_idle_seconds_have_no_shares() -> None:
    found = measured(Counters(), 1.0, SAMPLE)
    assert set(found) == set(SAMPLE)


def test_prompts_sent_to_upstreams_count_as_prefilled() -> None:
    m = EngineMetrics()
    m.prompt_tokens, m.cached_tokens = 100, 40
    assert Counters.total([m]).since(Counters()).prefilled == 60


def test_counters_of_a_model_that_was_loaded_again_count_from_zero() -> None:
    assert Counters(generated=5).since(Counters(generated=100)).generated == 5
    assert Counters.total([]) == Counters()


def machine(root: Path, files: dict[str, str]) -> Host:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Host(root=root, system="Linux", which=lambda _: None)


def test_processor_load_is_that_of_all_cores_without_waiting_for_disks(tmp_path: Path) -> None:
    host = machine(tmp_path, {"proc/stat": "cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1 2 3 4 5\n"})
    before = cpu_times(host)
    assert before == CpuTimes(150, 1000)
    assert cpu_load(before, CpuTimes(225, 1100)) == 75.0
    assert cpu_load(before, CpuTimes(140, 1100)) == 0.0
    assert cpu_load(before, before) is None
    assert cpu_load(None, before) is None


@pytest.mark.parametrize("text", ["", "cpu\n", "cpu  a b c d e\n", "intr 1 2 3 4 5 6\n"])
def test_unreadable_processor_times_are_unknown(tmp_path: Path, text: str) -> None:
    assert cpu_times(machine(tmp_path, {"proc/stat": text})) is None


def test_gpus_of_nvidia_and_amd_are_read(tmp_path: Path) -> None:
    card = "sys/class/drm/card0/device"
    host = machine(
        tmp_path,
        {
            f"{card}/vendor": "0x1002\n", f"{card}/mem_info_vram_total": "1000",
            f"{card}/mem_info_vram_used": "400", f"{card}/gpu_busy_percent": "30",
            f"{card}/product_name": "Radeon", "sys/class/drm/card1/device/vendor": "0x8086",
        },
    )  # fmt: skip
    said = (
        "NVIDIA H100, NVL, 55, 1000, 400\nold GPU, [N/A], 10, 5\nbroken\nshared, 1, [N/A], [N/A]\n"
    )
    host = replace(host, which=lambda _: "nvidia-smi", run=lambda _: said)
    assert gpu_loads(host) == (
        GpuLoad("NVIDIA H100, NVL", 1000 << 20, 400 << 20, 55.0),
        GpuLoad("old GPU", 10 << 20, 5 << 20),
        GpuLoad("Radeon", 1000, 600, 30.0),
    )


def test_process_takes_memory() -> None:
    assert (process_bytes() or 0) > 10e6


def test_prefix_cache_shows_sizes_ages_and_hits() -> None:
    now = [100.0]
    store = PrefixStore(1000, clock=lambda: now[0])
    store.put([1, 2, 3], b"x" * 10)
    store.put([7, 8], b"y" * 5, adapters=((0, 0.5),))
    now[0] = 130.0
    found = store.longest([1, 2, 3, 4])
    assert found
    store.get(found[1])
    now[0] = 150.0
    assert store.states() == (
        PrefixState(n_tokens=3, n_bytes=10, age=50.0, idle=20.0, n_hits=1),
        PrefixState(n_tokens=2, n_bytes=5, age=50.0, idle=50.0, n_hits=0),
    )


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("", ""), ("node", "node"), ("llama.vim", "llama.vim"), ("python-requests/2.32.3", "python-requests"),
        ("Mozilla/5.0 (X11; Linux) Gecko/2010 Firefox/128.0", "Firefox"), ("x" * 99, "x" * 40),
        ("\x00\x1b[31m/é", "[31m"),
    ],
)  # fmt: skip
def test_client_is_named_by_its_product(header: str, name: str) -> None:
    assert client_name(header) == name


@given(st.text())
def test_any_user_agent_gives_a_short_printable_name(header: str) -> None:
    assert len(client_name(header)) <= 40
    assert client_name(header).isprintable()


def test_reports_are_counted_by_client_up_to_a_limit() -> None:
    reports = ClientReports()
    for i in range(MOST_CLIENTS + 2):
        reports.count(f"client {i}", "shown")
    reports.count("client 0", "accepted")
    reports.count("one more", "dismissed")
    shares = reports.shares
    assert len(shares) == MOST_CLIENTS + 1
    assert shares[0] == {"client": "client 0", "shown": 1, "accepted": 1, "dismissed": 0}
    assert shares[-1] == {"client": OTHER, "shown": 2, "accepted": 0, "dismissed": 1}


def test_reports_of_both_kinds_of_clients_are_read() -> None:
    assert tabby_report(b'{"type": "view", "completion_id": "c", "choice_index": 0}') == "shown"
    assert tabby_report(b'{"type": "select", "select_kind": "line"}') == "accepted"
    assert tabby_report(b'{"type": "dismiss"}') == "dismissed"
    for end, report in (("shown",) * 2, ("accepted",) * 2, ("disposed", "dismissed")):
        assert (
            sweep_report(b'{"event_type": "autocomplete_suggestion_%s"}' % end.encode()) == report
        )


HOSTILE = (
    b"", b"null", b"[]", b"5", b'"view"', b"\xff\xfe", b'{"type": ["view"]}', b'{"type": {}}', b'{"type": null}',
    b'{"type": "other"}', b"[" * 100_000, b'{"type": NaN}', b'{"event_type": 1}', b"x" * 10**6,
)  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_other_bodies_report_nothing(data: bytes) -> None:
    assert tabby_report(data) is None
    assert sweep_report(data) is None


def test_events_are_the_last_messages_of_a_logger() -> None:
    log, events = logging.Logger("turbopilot.models"), EventLog()
    log.addHandler(events)
    log.info("loaded %s", "a", extra={EVENT_MODEL: "a"})
    log.debug("not an event")
    log.warning("again")
    log.warning("again")
    log.critical("x" * 10_000)
    found = events.events
    assert [(e["id"], e["level"], e["model"]) for e in found] == [
        (1, "info", "a"), (3, "warning", ""), (4, "error", ""),
    ]  # fmt: skip
    assert found[0]["text"] == "loaded a"
    assert len(found[2]["text"]) == 500
    for i in range(MOST_EVENTS):
        log.info("event %d", i)
    assert len(events.events) == MOST_EVENTS


def shown(**given: object) -> dict[str, tuple[str, bool]]:
    found = shown_options(given, ModelChoice, ServerOptions, LogOptions)
    assert len({o.flag for o in found}) == len(found)
    assert all(o.help for o in found)
    return {o.flag: (o.value, o.is_default) for o in found}


def test_options_are_shown_as_they_were_given() -> None:
    found = shown(
        model="a.gguf", port=80, model_memory="12GB", idle_unload=5.0, deadline=0.5, no_ahead=True, rpc=["a:1,b:2"],
        debug=True, models=["x=y.gguf", "z=w.gguf"],
    )  # fmt: skip
    assert found["MODEL"] == ("a.gguf", False)
    assert found["--port"] == ("80", False)
    assert found["--model-memory"] == ("12GB", False)
    assert found["--idle-unload"] == ("5", False)
    assert found["--deadline"] == ("0.5", False)
    assert (found["--ahead"], found["--drafts"]) == (("off", False), ("on", True))
    assert (found["--debug"], found["--log-prompts"]) == (("on", False), ("off", True))
    assert found["--rpc"] == ("a:1,b:2", False)
    assert found["--model"] == ("x=y.gguf, z=w.gguf", False)


def test_options_that_were_not_given_show_their_defaults() -> None:
    found = shown(port=18080)
    assert found["--port"] == ("18080", True)
    assert found["--deadline"] == ("120", True)
    assert found["--parallel"] == ("auto", True)
    assert found["--draft"] == ("", True)
    assert found["--mmap"] == ("on", True)
    assert all(is_default for _, is_default in found.values())


def test_secrets_are_not_shown() -> None:
    found = shown(
        api_key=["s3cret"], upstream_key="s3cret", cors_origin=["https://me:s3cret@a.b"],
        upstream=["http://a:8000"], model="https://me:s3cret@hub/x",
    )  # fmt: skip
    assert "s3cret" not in repr(found)
    assert found["--api-key"] == ("set", False)
    assert found["--upstream-key"] == ("set", False)
    assert found["--cors-origin"] == ("https://…@a.b", False)
    assert found["--upstream"] == ("http://a:8000", False)
    assert shown()["--api-key"] == ("not set", True)
