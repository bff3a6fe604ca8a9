"""Output of `turbopilot top`: the status of a server as lines of a terminal.

All texts of the server are escaped, and cut to one line each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from turbopilot.base.counts import count
from turbopilot.base.quoting import shortened
from turbopilot.base.sizes import size
from turbopilot.client.server_status import StatusHistory
from turbopilot.render import console
from turbopilot.render.bars import bar, history
from turbopilot.render.live_screen import ScreenLine
from turbopilot.render.table import TableColumns, cut

if TYPE_CHECKING:
    from serve.api.status import (
        MachineStatus,
        RequestTimes,
        ServedModelStatus,
        SlotStatus,
        StatusSample,
    )

_NAME, _VALUE, _BAR, _MOST_HISTORY = 13, 23, 10, 60  # columns
_MOST_NAME, _MOST_TEXT = 32, 300  # characters of a name, and of a sentence
_MOST_SLOTS, _MOST_MODELS, _MOST_EVENTS = 16, 12, 5
_MOST_ROWS, _PLAIN_ROWS = 100, 12  # requests with their heading: on a terminal, and in a pipe
_MOST_BYTES: Final = 10**18  # larger numbers of a server are not shown exactly
_STYLES: Final = {"error": "red", "warning": "yellow", "info": ""}
_BUSY: Final = {"stalled", "loading", "draining"}
_MODELS: Final = TableColumns(
    ("model", "type", "state", "memory", "slots", "running", "waiting", "prefixes"),
    left=("type", "state", "slots"), optional=("prefixes", "type", "memory", "running"),
)  # fmt: skip
_REQUESTS: Final = TableColumns(
    ("time", "client", "model", "total", "queue", "prefill", "decode", "prompt", "cached", "new", "end", "why"),
    left=("client", "model", "end"),
    optional=("model", "queue", "cached", "prompt", "decode", "prefill", "end", "new", "client"), text="why",
)  # fmt: skip


def screen(
    found: StatusHistory, url: str, width: int, height: int | None = None, *, failure: str = ""
) -> list[ScreenLine]:
    """Return the lines that show a status.

    Args:
        found: the status.
        url: URL of the server.
        width: columns of the terminal.
        height: rows of the terminal, which the last requests fill; None means any number.
        failure: why the server does not answer now, or "".
    """
    head = list(_head(found, url, width, failure))
    models = list(_models(found.status["models"], width))
    events = list(_events(found))
    room = _PLAIN_ROWS
    if height is not None:
        room = height - len(head) - len(models) - len(events)
    requests = list(_requests(found.requests, width, room))
    lines = [*head, *models, *requests, *events]
    return [ScreenLine(_fitted(text, width), style) for text, style in lines]


def _fitted(text: str, width: int) -> str:
    """Return a text on one line of this width, without control characters."""
    return cut(console.printable(shortened(text, 2 * width))[: 2 * width], width)


def _head(found: StatusHistory, url: str, width: int, failure: str) -> Iterator[ScreenLine]:
    s = found.status
    up = duration(max(0.0, s["time"] - s["started"]))
    yield ScreenLine(f"TurboPilot {s['version']} at {url}, up {up}", "bold")
    if failure:
        yield ScreenLine(f"gone since {_clock(s['time'])}, trying again: {failure}", "bold red")
    newest = found.samples[-1] if found.samples else None
    yield from _machine(s["machine"], newest)
    yield from _activity(found.samples, width)


def _machine(m: MachineStatus, newest: StatusSample | None) -> Iterator[ScreenLine]:
    taken = m["memory_total"] - m["memory_free"]
    cpu = f"{_load(newest.get('cpu') if newest else None)} of {m['cores']} cores"
    yield _row("CPU", cpu)
    memory = [_used(taken, m["memory_total"])]
    if used := m.get("process_memory"):
        memory.append(f"server {_size(used)}")
    if limit := m.get("model_memory_limit"):
        memory.append(f"models ≤ {_size(limit)}")
    yield _row("memory", ", ".join(memory))
    for i, gpu in enumerate(m["gpus"][:_MOST_MODELS]):
        taken = gpu["memory_total"] - gpu["memory_free"]
        name = shortened(gpu["name"], _MOST_NAME)
        yield _row(
            f"GPU {i}", f"{_load(gpu.get('load'))}, {_used(taken, gpu['memory_total'])}, {name}"
        )


def _activity(samples: Sequence[StatusSample], width: int) -> Iterator[ScreenLine]:
    """Yield a line for each measured value, with its history."""
    if not samples:
        return
    newest = samples[-1]
    queue = f"{newest['running']} running, {newest['waiting']} waiting"
    waiting = [min(s["waiting"], _MOST_BYTES) for s in samples]
    yield _past("requests", queue, waiting, width)
    prefill = [s["prefill_speed"] for s in samples]
    yield _past("prefill", _speed(prefill[-1]), prefill, width)
    decode = [s["decode_speed"] for s in samples]
    yield _past("decode", _speed(decode[-1]), decode, width)
    waits = [s.get("first_token_ms") for s in samples]
    yield _past("first token", _last(waits, milliseconds), waits, width)
    cached = [s.get("cached_share") for s in samples]
    yield _past("cached", _last(cached, _percent), cached, width, most=1.0)
    accepted = [s.get("accepted_share") for s in samples]
    yield _past("drafts", _last(accepted, _percent), accepted, width, most=1.0)


def _row(name: str, text: str) -> ScreenLine:
    return ScreenLine(f"{name:<{_NAME}}{text}")


def _past(
    name: str, now: str, values: Sequence[float | None], width: int, most: float | None = None
) -> ScreenLine:
    room = min(width - _NAME - _VALUE, _MOST_HISTORY)
    return _row(name, f"{now:<{_VALUE}}{history(values, room, most)}".rstrip())


def _models(models: Sequence[ServedModelStatus], width: int) -> Iterator[ScreenLine]:
    shown = models[:_MOST_MODELS]
    rows = [
        [
            shortened(m["name"], _MOST_NAME), shortened(m["type"], _MOST_NAME), m["status"], _size(m.get("memory")),
            _slots(m.get("slots", [])), str(m["running"]), str(m["waiting"]), _prefixes(m),
        ]
        for m in shown
    ]  # fmt: skip
    heading, *lines = _table(_MODELS, rows, width)
    yield ScreenLine("")
    yield heading
    for m, line in zip(shown, lines, strict=True):
        style = "red" if m["status"] == "failed" else "yellow" if m["status"] in _BUSY else ""
        yield ScreenLine(line.text, style)
        if reason := m.get("reason"):
            yield ScreenLine(f"  {shortened(reason, _MOST_TEXT)}", style)
        for u in m.get("upstreams", [])[:_MOST_MODELS]:
            busy = f"{u['in_flight']} of {u['slots']} slots"
            text = f"  {shortened(u['name'], _MOST_TEXT)} ({u['engine']}): {u['status']}, {busy}"
            yield ScreenLine(text, "" if u["status"] == "healthy" else "yellow")
    if left := len(models) - len(shown):
        yield ScreenLine(f"and {count(left, 'more model')}")


def _slots(slots: Sequence[SlotStatus]) -> str:
    """Return a character for each slot, by what it does, and the number of busy ones."""
    if not slots:
        return ""
    busy = sum("request" in s for s in slots)
    return f"{''.join(map(_slot, slots[:_MOST_SLOTS]))} {busy}/{len(slots)}"


def _slot(slot: SlotStatus) -> str:
    if "request" not in slot:
        return "·"
    return "█" if slot["decoded"] else "▒"  # ▒: prefill


def _prefixes(m: ServedModelStatus) -> str:
    held, n_bytes = m.get("prefix_cache"), m.get("prefix_cache_bytes")
    return "" if held is None else f"{len(held)} ({_size(n_bytes)})"


def _requests(requests: Sequence[RequestTimes], width: int, room: int) -> Iterator[ScreenLine]:
    """Yield the last requests, the newest first; `room` is the number of lines for them and their heading."""
    shown = requests[::-1][: max(0, min(room, _MOST_ROWS) - 2)]
    if not shown:
        return
    rows = [
        [
            _clock(r["time"]), shortened(r["client"], _MOST_NAME), shortened(r["model"], _MOST_NAME),
            *map(milliseconds, (r["total"], r["queue"], r["prefill"], r["decode"])),
            *map(str, (r["prompt_tokens"], r["cached_tokens"], r["completion_tokens"])),
            r["reason"] if r["status"] < 400 else f"{r['reason']} {r['status']}", shortened(r["why"], _MOST_TEXT),
        ]
        for r in shown
    ]  # fmt: skip
    yield ScreenLine("")
    heading, *lines = _table(_REQUESTS, rows, width)
    yield heading
    for r, line in zip(shown, lines, strict=True):
        yield ScreenLine(line.text, "yellow" if r["why"] or r["status"] >= 400 else "")


def _events(found: StatusHistory) -> Iterator[ScreenLine]:
    """Yield the last events, the newest first."""
    if found.events:
        yield ScreenLine("")
        yield ScreenLine("events", "bold")
    for e in found.events[::-1][:_MOST_EVENTS]:
        about = "" if e["model"] in e["text"] else f"{shortened(e['model'], _MOST_NAME)}: "
        text = f"{_clock(e['time'])}  {about}{shortened(e['text'], _MOST_TEXT)}"
        yield ScreenLine(text, _STYLES[e["level"]])


def _table(
    columns: TableColumns, rows: Sequence[Sequence[str]], width: int
) -> Iterator[ScreenLine]:
    cells = [[console.printable(cell) for cell in row] for row in rows]
    (heading, *lines), _ = columns.lay_out(cells, width)
    yield ScreenLine(heading, "bold")
    yield from map(ScreenLine, lines)


def duration(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> duration(59.4), duration(3700), duration(200_000)
    ('59 s', '1 h 1 min', '2 d 7 h')
    """
    minutes = int(min(seconds, _MOST_BYTES)) // 60
    if not minutes:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60):,} d {minutes // 60 % 24} h"


def milliseconds(value: float) -> str:
    """Return a duration in milliseconds, or in seconds if it is long.

    >>> milliseconds(12.3), milliseconds(12_300)
    ('12 ms', '12.3 s')
    """
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:,.1f} s"


def _clock(unix_time: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(unix_time))
    except (OverflowError, ValueError, OSError):
        return "?"


def _size(n_bytes: int | None) -> str:
    return "" if n_bytes is None else size(min(n_bytes, _MOST_BYTES))


def _used(taken: int, total: int) -> str:
    """Return a bar and numbers for memory."""
    share = min(taken, _MOST_BYTES) / min(total, _MOST_BYTES) if total > 0 else 0.0
    return f"{bar(share, _BAR)} {_size(max(0, taken))} of {_size(total)}"


def _load(percent: float | None) -> str:
    return "load unknown" if percent is None else f"{bar(percent / 100, _BAR)} {percent:.0f} %"


def _speed(tokens_per_second: float) -> str:
    return f"{tokens_per_second:,.0f} tokens/s"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _last(values: Sequence[float | None], shown: Callable[[float], str]) -> str:
    """Return the last known value as text."""
    return next((shown(v) for v in reversed(values) if v is not None), "")
