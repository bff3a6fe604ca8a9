"""Next edits: Sweep's route, read as its clients read it, and the prompts of each format."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from serve.http.body_codings import decompressed
from serve.prompt import zeta
from serve.prompt.context_file import ContextFile
from serve.prompt.edit_state import EditState, lines_around, lines_within, parse_changes
from serve.prompt.next_edit import FORMATS, recognize
from serve.settings import MAX_BODY_BYTES, TextOptions
from serve.text.edits import Edit, find_edits, merged, nearest
from tests.support.fakes import FakeDecoder, TalkingDecoder, script
from tests.support.serving import MakeClient
from turbopilot.base.errors import InvalidRequest

PATH = "/backend/next_edit_autocomplete"
CODE = "import math\n\n\ndef area(radius):\n    return math.pi * radius\n\n\nprint(area(2))\n"
CURSOR = CODE.index(" * radius") + len(" * radius")
CHANGES = "File: circle.py:\n@@ -5,1 +5,1 @@\n-    return math.pi\n+    return math.pi * radius\n"
# As src/api/client.ts of sweepai/vscode-nes builds it (fa52a26).
VSCODE = {
    "debug_info": "VSCode (1.108.1) - OS: linux x64 - Sweep v0.5.0", "repo_name": "circle",
    "file_path": "/home/user/circle.py", "file_contents": CODE, "original_file_contents": CODE,
    "cursor_position": CURSOR, "recent_changes": CHANGES, "changes_above_cursor": True,
    "multiple_suggestions": True, "use_bytes": True,
    "file_chunks": [{"file_path": "a.py", "start_line": 0, "end_line": 1, "content": "import circle", "timestamp": 1}],
    "retrieval_chunks": [
        {"file_path": "diagnostics", "start_line": 1, "end_line": 1, "content": "circle.py:5:1: info: x\n"}
    ],
    "editor_diagnostics": [
        {"line": 5, "start_offset": 1, "end_offset": 2, "severity": "info", "message": "x", "timestamp": 1}
    ],
    "recent_user_actions": [
        {"action_type": "INSERT_CHAR", "line_number": 5, "offset": CURSOR, "file_path": "circle.py", "timestamp": 1}
    ],
}  # fmt: skip
# As EditAutocompleteModels.kt of Sweep's plugin for JetBrains declares it; positions are UTF-16 code units.
JETBRAINS = {
    **{k: v for k, v in VSCODE.items() if k not in ("debug_info", "use_bytes")},
    "branch": None, "privacy_mode_enabled": False, "client_ip": None, "recent_changes_high_res": CHANGES,
    "ping": False, "steering": None, "automatic_steering": None, "avoid_completions": [],
}  # fmt: skip
# As server/client/sweepapi/client.go of cursortab.nvim builds it (b9f9b0a).
CURSORTAB = {
    **{k: v for k, v in VSCODE.items() if k != "debug_info"},
    "recent_changes": "File: circle.py:\n<<<<<<< ORIGINAL\n    return math.pi\n=======\n    return math.pi * radius\n"
    ">>>>>>> UPDATED\n\n",
    "recent_changes_high_res": "", "privacy_mode_enabled": True,
}  # fmt: skip
# The lines around the cursor without the first one, which is part of the prompt.
REGION = lines_around(CODE, CURSOR, 2, 5).text
REWRITTEN = REGION.replace("radius\n\n", "radius**2\n\n").partition("\n")[2].lstrip("\n")
UPDATED = CODE.replace("* radius\n", "* radius**2\n")


def answering(text: str, first_line: int = 3) -> FakeDecoder:
    """Return a decoder that completes Sweep's prompts for the lines from `first_line` on with `text`."""
    end = f"circle.py:{first_line}:{first_line + 5}\n\n"
    return FakeDecoder(script(text, after=end), n_ctx=8192, n_batch=512)


def client_of(make_client: MakeClient, decoder: FakeDecoder, form: str = "sweep") -> FlaskClient:
    return make_client(decoder=decoder, text=TextOptions(next_edit=form))


def vscode_reads(data: bytes, text: str) -> list[tuple[int, int, str]]:
    """Return the edits, in characters, as src/api/client.ts reads them: the whole body is one object."""
    answer = json.loads(data)
    for key, kind in (
        ("autocomplete_id", str), ("start_index", int), ("end_index", int), ("completion", str), ("confidence", float),
    ):  # fmt: skip
        assert all(isinstance(a[key], kind) for a in (answer, *answer["completions"]))
    found = answer["completions"] or [answer]
    raw = text.encode()
    places = [
        [len(raw[: e[k]].decode()) for k in ("start_index", "end_index")] + [e["completion"]]
        for e in found
    ]
    return [(s, e, t) for s, e, t in places if t]


def jetbrains_reads(data: bytes) -> list[tuple[int, int, str]]:
    """Return the edits as AutocompleteIpResolverService.kt reads them: the last line without an error."""
    lines = [json.loads(line) for line in data.decode().splitlines() if line.strip()]
    answer = [a for a in lines if a.get("status") != "error"][-1]
    assert {"start_index", "end_index", "completion", "confidence", "autocomplete_id"} <= set(
        answer
    )
    return [(e["start_index"], e["end_index"], e["completion"]) for e in answer["completions"]]


def cursortab_reads(data: bytes, text: str) -> str:
    """Return the edited file as server/client/sweepapi/client.go does: one edit a line, applied in order to bytes."""
    raw, shift = text.encode(), 0
    for line in data.decode().splitlines():
        edit = json.loads(line)
        start, end = edit["start_index"] + shift, edit["end_index"] + shift
        assert 0 <= start <= end <= len(raw)
        raw = raw[:start] + edit["completion"].encode() + raw[end:]
        shift += len(edit["completion"].encode()) - (edit["end_index"] - edit["start_index"])
    return raw.decode()


def test_vscode_plugin_gets_the_edit_at_the_cursor(make_client: MakeClient) -> None:
    client = client_of(make_client, answering(REWRITTEN))
    assert client.get("/").status_code < 500  # how the plugin checks the server
    response = client.post(PATH, json=VSCODE)
    assert response.mimetype == "application/x-ndjson"
    assert response.get_data().count(b"\n") == 1
    assert vscode_reads(response.get_data(), CODE) == [(CURSOR, CURSOR, "**2")]


def test_jetbrains_plugin_gets_the_edit_in_characters(make_client: MakeClient) -> None:
    text = "# 🙂\n" + CODE
    body = {
        **JETBRAINS,
        "file_contents": text,
        "cursor_position": 5 + CURSOR,
    }  # the emoji is two UTF-16 code units
    client = client_of(make_client, answering(REWRITTEN, 4))
    assert client.get("/health").status_code == 200
    ((start, end, completion),) = jetbrains_reads(client.post(PATH, json=body).get_data())
    assert (start, end, completion) == (4 + CURSOR, 4 + CURSOR, "**2")
    assert jetbrains_reads(client.post(PATH, json={**body, "ping": True}).get_data()) == []


def test_cursortab_gets_the_edit_in_bytes(make_client: MakeClient) -> None:
    text = "# Fläche 🙂\n" + CODE
    body = {
        **CURSORTAB,
        "file_contents": text,
        "cursor_position": len(text[: 11 + CURSOR].encode()),
    }
    client = client_of(make_client, answering(REWRITTEN, 4))
    answer = client.post(PATH, json=body).get_data()
    assert cursortab_reads(answer, text) == text.replace(CODE, UPDATED)
    assert client.post("/backend/track_autocomplete_metrics", json={}).status_code == 200


@pytest.mark.parametrize(
    "body", [VSCODE, JETBRAINS, CURSORTAB], ids=["VS Code", "JetBrains", "cursortab"]
)
def test_unchanged_lines_give_no_edit(make_client: MakeClient, body: dict[str, Any]) -> None:
    client = client_of(make_client, answering(REGION.partition("\n")[2].lstrip("\n")))
    data = client.post(PATH, json=body).get_data()
    assert vscode_reads(data, CODE) == jetbrains_reads(data) == []
    assert cursortab_reads(data, CODE) == CODE


def test_unfinished_rewrite_gives_no_edit(make_client: MakeClient) -> None:
    client = client_of(make_client, FakeDecoder(lambda _: ord("x"), n_ctx=2048))
    answer = client.post(PATH, json=VSCODE).get_json(force=True)
    assert (answer["finish_reason"], answer["completions"]) == ("length", [])


def test_several_changes_are_one_edit_or_several(make_client: MakeClient) -> None:
    new = REWRITTEN.replace("print(area(2))", "print(area(3))")
    client = client_of(make_client, answering(new))
    found = vscode_reads(client.post(PATH, json=VSCODE).get_data(), CODE)
    assert [t for _, _, t in found] == ["**2", "3"]
    one = vscode_reads(
        client.post(PATH, json={**VSCODE, "multiple_suggestions": False}).get_data(), CODE
    )
    ((start, end, text),) = one
    assert CODE[:start] + text + CODE[end:] == UPDATED.replace("area(2)", "area(3)")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cursor_position": len(CODE) + 1}, "cursor_position"),
        ({"cursor_position": -1}, "cursor_position"),
        ({"cursor_position": None}, "cursor_position"),
        ({"file_contents": "ä", "cursor_position": 1}, "cursor_position"),
        ({"file_contents": "🙂", "cursor_position": 1, "use_bytes": False}, "cursor_position"),
        ({"file_path": None}, "file_path"),
        ({"file_contents": None}, "file_contents"),
        ({"file_contents": 7}, "file_contents"),
        ({"recent_changes": []}, "recent_changes"),
        ({"file_chunks": [{"content": 1}]}, "file_chunks[0].content"),
    ],
)
def test_invalid_request_returns_400_and_names_the_field(
    make_client: MakeClient, change: dict[str, Any], field: str
) -> None:
    client = client_of(make_client, answering(REWRITTEN))
    response = client.post(PATH, json={**VSCODE, **change})
    assert response.status_code == 400
    error = response.get_json()["error"]
    assert error["param"] == field
    assert field in error["message"]


def test_other_models_are_refused_with_the_formats_that_exist(make_client: MakeClient) -> None:
    response = client_of(make_client, FakeDecoder(), "").post(PATH, json=VSCODE)
    assert response.status_code == 400
    message = response.get_json()["error"]["message"]
    assert "fake is not a next-edit model" in message
    assert all(name in message for name in FORMATS)


def test_gzip_body_is_accepted_on_this_route_alone(make_client: MakeClient) -> None:
    client = client_of(make_client, answering(REWRITTEN))
    data, headers = gzip.compress(json.dumps(VSCODE).encode()), {"Content-Encoding": "gzip"}
    answer = client.post(PATH, data=data, headers=headers)
    assert vscode_reads(answer.get_data(), CODE) == [(CURSOR, CURSOR, "**2")]
    assert client.post("/v1/completions", data=data, headers=headers).status_code == 415
    assert client.post(PATH, data=data, headers={"Content-Encoding": "zstd"}).status_code == 415
    for broken in (data[:-9], b"x" + data, b""):
        refused = client.post(PATH, data=broken, headers=headers)
        assert refused.status_code == 400
        assert "gzip" in refused.get_json()["error"]["message"]
    bomb = gzip.compress(b" " * (MAX_BODY_BYTES + 1))
    assert len(bomb) < MAX_BODY_BYTES / 100
    assert client.post(PATH, data=bomb, headers=headers).status_code == 413


def test_brotli_body_is_accepted_up_to_the_limit() -> None:
    brotli = pytest.importorskip("brotli", reason="needs the extra brotli")
    data = brotli.compress(CODE.encode())
    assert decompressed(data, "br") == CODE.encode()
    for broken in (data[:-3], b"x" + data, b""):
        with pytest.raises(InvalidRequest):
            decompressed(broken, "br")
    with pytest.raises(Exception, match="413"):
        decompressed(brotli.compress(b" " * (MAX_BODY_BYTES + 1)), "BR")


# --- formats

STATE = EditState(
    "circle.py", CODE, CURSOR, CODE, parse_changes(CHANGES), (ContextFile("a.py", "import circle\n"),),
    (ContextFile("diagnostics", "circle.py:5:1: info: x"),),
)  # fmt: skip
MARKED = CODE[:CURSOR] + "{}" + CODE[CURSOR:]


def test_sweep_prompt_has_the_sections_of_its_server() -> None:
    prompt = FORMATS["sweep"].frame(STATE).prompt
    before = REGION.replace(" * radius", "")
    at = REGION.index("radius\n\n") + len("radius")
    assert prompt == (
        "<|file_sep|>a.py\nimport circle\n"
        f"<|file_sep|>circle.py\n{CODE}"
        "<|file_sep|>diagnostics\ncircle.py:5:1: info: x\n"
        "<|file_sep|>circle.py:5:5\noriginal:\n    return math.pi\nupdated:\n    return math.pi * radius\n"
        f"<|file_sep|>original/circle.py:3:8\n{before}"
        f"<|file_sep|>current/circle.py:3:8\n{REGION[:at]}<|cursor|>{REGION[at:]}"
        "<|file_sep|>updated/circle.py:3:8\n\n"
    )


def test_zeta_prompt_equals_zeds() -> None:
    """Compare with `format_zeta1_prompt` in Zed's crates/zeta_prompt/src/zeta_prompt.rs."""
    prompt = FORMATS["zeta"].frame(STATE).prompt
    excerpt = MARKED.format("<|user_cursor_is_here|>").removesuffix("\n")
    assert prompt == (
        f"{zeta.INSTRUCTION}User edited circle.py:\n```diff\n@@ -5,1 +5,1 @@\n-    return math.pi\n"
        "+    return math.pi * radius\n```\n\n### User Excerpt:\n\n```circle.py\n<|start_of_file|>\n"
        f"<|editable_region_start|>\n{excerpt}\n<|editable_region_end|>\n\n```\n\n### Response:\n"
    )


def test_zeta2_prompt_equals_zeds() -> None:
    """Compare with the example in `seed_coder` in Zed's crates/zeta_prompt/src/zeta_prompt.rs."""
    head = (
        "<[fim-suffix]>\n<[fim-prefix]><filename>a.py\nimport circle\n\n<filename>diagnostics\n"
        "circle.py:5:1: info: x\n\n<filename>edit_history\n--- a/circle.py\n+++ b/circle.py\n@@ -5,1 +5,1 @@\n"
        "-    return math.pi\n+    return math.pi * radius\n\n<filename>circle.py\n"
    )
    marked = MARKED.format("<|user_cursor|>")
    assert FORMATS["zeta2"].frame(STATE).prompt == (
        f"{head}<<<<<<< CURRENT\n{marked}=======\n<[fim-middle]>"
    )
    assert FORMATS["zeta2.1"].frame(STATE).prompt == (
        f"{head}<|marker_1|>{marked}<|marker_2|>\n<[fim-middle]>"
    )


def test_blocks_of_zeta_2_1_begin_after_blank_lines_or_16_lines() -> None:
    """Follow `compute_marker_offsets_v0318` in Zed's crates/zeta_prompt/src/multi_region.rs."""
    assert zeta.block_bounds("") == [0, 0]
    assert zeta.block_bounds("a\n" * 12) == [0, 24]
    assert zeta.block_bounds("a\n" * 40) == [0, 32, 64, 80]
    assert zeta.block_bounds("a\n" * 6 + "\n" + "b\n" * 6) == [0, 13, 25]
    assert zeta.block_bounds("a\n" * 6 + "\n}\n" + "b\n" * 6) == [0, 15, 27]
    assert zeta.block_bounds("a\n" * 6 + "\n" + "b\n" * 5) == [0, 23]


REWRITES = {
    "sweep": UPDATED,
    "zeta": f"<|editable_region_start|>\n{UPDATED}<|editable_region_end|>\n```\n",
    "zeta2": UPDATED.replace("**2", "**2<|user_cursor|>") + ">>>>>>> UPDATED\n",
    "zeta2.1": f"<|marker_1|>{UPDATED}<|marker_2|>",
    "instinct": UPDATED.removesuffix("\n"),
}
UNCHANGED = {
    "sweep": CODE + "\n",
    "zeta": f"<|editable_region_start|>\n{CODE}",
    "zeta2": "NO_EDITS\n>>>>>>> UPDATED\n",
    "zeta2.1": "<|marker_1|><|marker_1|>",
    "instinct": CODE,
}


@pytest.mark.parametrize("name", FORMATS)
def test_new_lines_are_found_in_the_output_of_each_format(name: str) -> None:
    lines = lines_within(CODE, CURSOR, 10**6)
    assert FORMATS[name].rewritten(REWRITES[name], lines) == UPDATED
    assert FORMATS[name].rewritten(UNCHANGED[name], lines) == CODE


@pytest.mark.parametrize("name", FORMATS)
def test_route_works_with_each_format(make_client: MakeClient, name: str) -> None:
    lines = FORMATS[name].frame(STATE).lines
    new = lines.text.replace("* radius\n", "* radius**2\n")
    text = {
        "sweep": new.removeprefix("\n"),
        "zeta2": new + ">>>>>>> UPDATED\n",
        "instinct": new,
    }.get(name, REWRITES[name].replace(UPDATED, new))
    ends = {
        "sweep": "circle.py:3:8\n\n", "zeta": "### Response:\n", "instinct": "### Response:?",
    }  # fmt: skip
    decoder = TalkingDecoder if name == "instinct" else FakeDecoder
    reply = script(text, after=ends.get(name, zeta.MIDDLE))
    client = client_of(make_client, decoder(reply=reply, n_ctx=8192, n_batch=512), name)
    found = vscode_reads(client.post(PATH, json=VSCODE).get_data(), CODE)
    assert found == [(CURSOR, CURSOR, "**2")]


def test_models_are_recognized_by_their_names() -> None:
    names = {
        "sweepai/sweep-next-edit-v2-7B": "sweep", "sweep-next-edit-0.5b.q8_0": "sweep",
        "zed-industries_zeta-Q4_K_M": "zeta",
        "zeta1": "zeta", "zed-industries_zeta-2-Q8_0": "zeta2", "Zeta2": "zeta2", "zeta-2.1-Q4_K_M": "zeta2.1",
        "zeta2_1": "zeta2.1", "continuedev/instinct": "instinct", "Instinct-Q4_K_M": "instinct", "codegen": "",
        "distinctive": "", "Qwen2.5-Coder-7B": "",
    }  # fmt: skip
    assert {n: recognize(n) for n in names} == names


@pytest.mark.parametrize("text", ["", "\n", "x", "x\n", "a\n\nb", "\n\n\n"])
def test_lines_around_every_cursor_are_whole_lines(text: str) -> None:
    for cursor in range(len(text) + 1):
        for lines in (lines_around(text, cursor, 1, 1), lines_within(text, cursor, 3)):
            assert text[lines.start : lines.end] == lines.text
            assert lines.start <= cursor <= lines.end
            assert lines.start == 0 or text[lines.start - 1] == "\n"
            assert lines.end == len(text) or lines.text.endswith("\n")
            assert lines.line == text[: lines.start].count("\n") + 1
            assert lines.marked("|")[lines.cursor] == "|"


def test_changes_are_parsed_from_diffs_and_conflicts() -> None:
    (change,) = parse_changes(CHANGES)
    assert (change.path, change.line) == ("circle.py", 5)
    assert (change.old, change.new) == ("    return math.pi\n", "    return math.pi * radius\n")
    (other,) = parse_changes(str(CURSORTAB["recent_changes"]))
    assert (other.path, other.old, other.new) == (change.path, change.old, change.new)
    two = parse_changes(CHANGES + "File: b.py\n@@ -1 +1 @@\n-a\n+ a\n@@ -9,2 +9,1 @@\n x\n-y\n")
    assert [(c.path, c.line) for c in two] == [("circle.py", 5), ("b.py", 9)]
    assert parse_changes("no changes\n@@ -1 +1 @@\n-a\n+b\n") == ()


# --- edits

texts = st.text("ab\n ", max_size=24)


def applied(text: str, edits: list[Edit]) -> str:
    for edit in reversed(edits):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


@given(texts, texts, st.data())
def test_edits_turn_one_text_into_the_other(old: str, new: str, data: st.DataObject) -> None:
    cursor = data.draw(st.integers(0, len(old)))
    edits = find_edits(old, new, cursor)
    assert applied(old, edits) == new
    assert (not edits) == (old == new)
    assert all(a.end <= b.start for a, b in pairwise(edits))
    assert all(e.text for e in edits) or not new
    if one := merged(old, edits):
        assert applied(old, [one]) == new


@given(texts, st.text("ab\n ", min_size=1, max_size=8), st.data())
def test_text_inserted_at_the_cursor_is_an_edit_at_the_cursor(
    old: str, text: str, data: st.DataObject
) -> None:
    cursor = data.draw(st.integers(0, len(old)))
    edits = find_edits(old, old[:cursor] + text + old[cursor:], cursor)
    if len(edits) == 1 and edits[0].start == edits[0].end:
        assert edits == [Edit(cursor, cursor, text)]


def test_edits_at_the_cursor_come_before_those_above() -> None:
    above, at, below = Edit(0, 2, "x"), Edit(5, 8, "y"), Edit(9, 9, "z")
    assert nearest([above, at, below], 8) == [at, below]
    assert nearest([above, at], 20) == [at, above]
    assert nearest([], 3) == []
