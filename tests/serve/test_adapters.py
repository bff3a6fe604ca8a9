"""LoRA adapters of a served model: batches and caches of one set never serve another."""

from __future__ import annotations

import ast
import os
import random
import struct
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import convert, convert_adapter
from serve.adapters import AdapterFile, AdapterOptions, AdapterScales, AdapterSet, split_scale
from serve.decoder import BatchItem, Logits
from serve.engine import Engine, EngineOptions
from serve.engine.planner import TURN_SECONDS, TURN_STEPS, Planner
from serve.engine.prefix_store import PrefixStore
from serve.engine.sequence import Sequence as EngineSequence
from serve.engine.slots import Slots
from serve.http.app import create_app
from serve.llama import load
from serve.models import ModelPool, PooledModel
from serve.models.loading import host, make_pool
from serve.request import GenerationRequest, SamplingParams
from serve.settings import ModelOptions, ServerOptions
from tests.serve.test_engine_step import run, text_of
from tests.support.fakes import FakeDecoder, certain, sequence
from tests.support.hostile_gguf import changed, number, text
from tests.support.peft_adapter import MODULES, write_adapter
from tests.support.serving import AS_GIVEN, ROOT, run_serve, serve_command, wait_until_ready
from tests.support.tiny import tiny_checkpoint
from turbopilot.base.errors import (
    AdaptersFixed,
    CorruptModel,
    InvalidInput,
    InvalidRequest,
    TurboPilotError,
)
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.check_adapter import check_adapter
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama import trial

GREEDY = SamplingParams(temperature=0)
SETS: tuple[AdapterSet, ...] = ((), ((0, 1.0),), ((0, 0.5), (1, 1.0)))


def reply(history: Sequence[int], adapters: AdapterSet) -> int:
    return ord("a") + zlib.crc32(repr((list(history), adapters)).encode()) % 26


class AdaptedDecoder(FakeDecoder):
    """Decoder whose tokens depend on the adapters, which asserts that a sequence is computed with one set."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.computed_with: dict[int, AdapterSet] = {}  # by cell
        self._row = self._one_row
        self.n_changes = 0

    def use_adapters(self, adapters: AdapterSet) -> None:
        self.n_changes += adapters != self.adapters
        super().use_adapters(adapters)

    def _one_row(self, history: Sequence[int]) -> Logits:
        return certain(reply(history, self.adapters))

    def decode(self, batch: Sequence[BatchItem]) -> Logits:
        before = self._next_cell
        rows = super().decode(batch)
        cells = range(before + 1, self._next_cell + 1)
        self.computed_with |= dict.fromkeys(cells, self.adapters)
        for item in batch:
            used = {self.computed_with[cell] for cell, _ in self.kv[item.seq]}
            assert used == {self.adapters}, "tokens of other adapters were reused"
        return rows

    def save(self, seq: int) -> bytes:
        sets = [self.computed_with[cell] for cell, _ in self.kv[seq]]
        return repr((ast.literal_eval(super().save(seq).decode()), sets)).encode()

    def restore(self, seq: int, state: bytes) -> bool:
        tokens, sets = ast.literal_eval(state.decode())
        before = self._next_cell
        done = super().restore(seq, repr(tokens).encode())
        cells = range(before + 1, self._next_cell + 1)
        self.computed_with |= dict(zip(cells, sets, strict=True))
        return done


def expected(prompt: str, n: int, adapters: AdapterSet) -> str:
    history = list(prompt.encode())
    for _ in range(n):
        history.append(reply(history, adapters))
    return bytes(history[len(prompt) :]).decode()


def request(prompt: str, n: int, adapters: AdapterSet) -> GenerationRequest:
    return GenerationRequest(tuple(prompt.encode()), n, sampling=GREEDY, adapters=adapters)


JOBS = st.lists(
    st.tuples(st.text("ab", min_size=1, max_size=90), st.integers(1, 12), st.sampled_from(SETS)),
    min_size=1,
    max_size=10,
)


@settings(max_examples=60)
@given(JOBS, st.integers(1, 4), st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_each_request_gets_the_text_of_its_adapters(
    jobs: list[tuple[str, int, AdapterSet]],
    n_seq: int,
    pooled: bool,
    can_move: bool,
    rng: random.Random,
) -> None:
    n_cells = 256 if pooled else 256 * n_seq
    decoder = AdaptedDecoder(n_seq=n_seq, n_cells=n_cells, n_batch=64, can_move=can_move)
    engine = Engine(decoder, EngineOptions(n_seq, prefix_cache_bytes=20_000, looks_ahead=True))
    events = []
    for i, (prompt, n, adapters) in enumerate(jobs):
        events += engine.submit(i, request(prompt, n, adapters))
        for _ in range(rng.randint(0, 8)):
            events += engine.step()
            engine.check_integrity()
    by_request = run(engine, events)
    for i, (prompt, n, adapters) in enumerate(jobs):
        assert text_of(by_request[i]) == expected(prompt, n, adapters)


def test_requests_of_one_set_share_batches_and_cached_prefixes() -> None:
    decoder = AdaptedDecoder(n_seq=4, n_cells=1024, n_batch=64)
    engine = Engine(decoder, EngineOptions(4, prefix_cache_bytes=0))
    prompt = "x" * 60
    events = [e for i in range(4) for e in engine.submit(i, request(prompt, 9, SETS[1 + i % 2]))]
    run(engine, events)
    assert engine.metrics.cached_tokens >= 2 * 59  # the second request of each set
    assert decoder.n_changes < 30


def test_answer_cache_distinguishes_adapters() -> None:
    engine = Engine(AdaptedDecoder(n_batch=64), EngineOptions(1))
    texts = []
    for i, adapters in enumerate([*SETS, *SETS]):
        before = engine.metrics.steps
        texts.append(text_of(run(engine, engine.submit(i, request("def f():", 6, adapters)))[i]))
        assert (engine.metrics.steps == before) == (i >= len(SETS))
    assert texts == [expected("def f():", 6, adapters) for adapters in (*SETS, *SETS)]


def test_stored_prefix_is_found_only_with_its_adapters(tmp_path: Path) -> None:
    store = PrefixStore(10_000, "x", tmp_path)
    tokens = list(range(100))
    for i, adapters in enumerate(SETS):
        store.put(tokens[: 50 + i], bytes([i]) * 10, adapters)
    store.close()
    for kept in (store, PrefixStore(10_000, "x", tmp_path)):
        assert len(kept) == len(SETS)
        for i, adapters in enumerate(SETS):
            found = kept.longest(tokens, adapters)
            assert found is not None
            assert found[0] == 50 + i
            assert kept.get(found[1]) == bytes([i]) * 10
        assert kept.longest(tokens, ((0, 0.25),)) is None
        assert kept.longest(tokens, ((1, 1.0),)) is None
        assert kept.covers(tokens[:50], SETS[1])
        assert not kept.covers(tokens[:51], SETS[0])


def decoding(i: int, adapters: AdapterSet) -> EngineSequence:
    s = sequence(i, [i], 99)
    s.request = GenerationRequest((i,), 99, adapters=adapters)
    return s


def turns(planner: Planner, n: int) -> list[int]:
    """Return the sequences of the next steps, each of which has one."""
    return [s.id for _ in range(n) for s in planner.plan()]


def three_sets() -> tuple[Slots, Planner]:
    slots = Slots(3, pooled=True)
    for i, adapters in enumerate(SETS):
        slots.occupy(i, decoding(i, adapters), None)
    return slots, Planner(slots, n_batch=8, most_drafted=0)


def test_sets_take_turns_of_some_steps_or_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    _, planner = three_sets()
    assert turns(planner, 4 * TURN_STEPS)[::TURN_STEPS] == [0, 1, 2, 0]
    monkeypatch.setattr("serve.engine.planner.TURN_STEPS", 2)
    _, planner = three_sets()
    assert turns(planner, 8) == [0, 0, 1, 1, 2, 2, 0, 0]
    _, planner = three_sets()
    for wanted in (0, 1, 2, 0):
        assert turns(planner, 1) == [wanted]
        planner.observe(1, 2 * TURN_SECONDS)


def test_new_sets_do_not_starve_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.engine.planner.TURN_STEPS", 1)
    slots, planner = three_sets()
    seen = []
    for i in range(3, 15):  # a new set in each step
        last = slots.all[2].running
        assert last is not None
        slots.release(last)
        slots.occupy(2, decoding(i, ((2, float(i)),)), None)
        seen += turns(planner, 1)
    assert seen.count(0) >= 3
    assert seen.count(1) >= 3


def test_set_that_runs_alone_gives_way_at_once() -> None:
    slots = Slots(2, pooled=True)
    slots.occupy(0, decoding(0, ()), None)
    planner = Planner(slots, n_batch=8, most_drafted=0)
    assert set(turns(planner, 2 * TURN_STEPS)) == {0}
    slots.occupy(1, decoding(1, SETS[1]), None)
    assert turns(planner, 2) == [1, 1]


# --- scales


def options(*scales: float, can_switch: bool = False) -> AdapterOptions:
    files = tuple(AdapterFile(Path(f"{i}.gguf"), s) for i, s in enumerate(scales))
    return AdapterOptions(files, can_switch)


def test_request_chooses_adapters_only_if_the_server_allows_it() -> None:
    fixed, switched = AdapterScales(options(1, 0)), AdapterScales(options(1, 0, can_switch=True))
    assert fixed.chosen({1: 0.5}) == ((0, 1.0),)
    assert fixed.chosen({9: 0.5}) == ((0, 1.0),)
    assert switched.chosen(None) == switched.chosen({}) == ((0, 1.0),)
    assert switched.chosen({1: 0.5}) == ((1, 0.5),)
    assert switched.chosen({1: 0.5, 0: 2}) == ((0, 2.0), (1, 0.5))
    assert switched.chosen({0: 0}) == ()
    with pytest.raises(InvalidRequest, match="no LoRA adapter 2: ids are 0 to 1"):
        switched.chosen({2: 1})
    with pytest.raises(AdaptersFixed):
        fixed.set({1: 1})
    switched.set({1: -0.5})
    assert switched.chosen(None) == ((1, -0.5),)
    assert [(s.id, s.scale) for s in switched.states] == [(0, 0.0), (1, -0.5)]


def test_scale_follows_the_last_colon() -> None:
    assert split_scale("a.gguf") == ("a.gguf", "", "")
    assert split_scale("dir/a:b.gguf:0.5") == ("dir/a:b.gguf", ":", "0.5")
    assert split_scale("dir:1/a.gguf") == ("dir:1/a.gguf", "", "")


# --- real adapters


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("lora") / "base")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Path:
    path = checkpoint.with_name("base.gguf")
    convert(checkpoint, path, dtype="f32")
    return path


@pytest.fixture(scope="module")
def adapters(checkpoint: Path) -> list[Path]:
    found = []
    for seed in (1, 2):
        folder = write_adapter(
            checkpoint, checkpoint.with_name(f"adapter{seed}"), MODULES["llama"], seed=seed
        )
        found.append(folder.with_suffix(".gguf"))
        convert_adapter(folder, checkpoint, found[-1])
    return found


PROMPTS = [
    "def f(x):\n    return x",
    "class A:\n    def",
    "import os\n" * 12,
    "def f(x):\n    return x",
]


def greedy(model: Path, files: list[Path], jobs: list[tuple[str, AdapterSet]]) -> list[list[int]]:
    """Return the greedy tokens of jobs that run at the same time."""
    decoder, _ = load(
        model, ModelOptions(ctx=256, n_seq=len(jobs), threads=1, tunes=False), adapters=files
    )
    found: dict[int, list[int]] = {}

    def end(s: Any) -> None:
        found[s.id] = s.tokens[len(s.request.prompt) :]

    engine = Engine(decoder, EngineOptions(len(jobs), drafts=False), on_end=end)
    for i, (prompt, adapters) in enumerate(jobs):
        ids = tuple(decoder.tokenize(prompt, parse_special=False))
        engine.submit(i, GenerationRequest(ids, 12, sampling=GREEDY, adapters=adapters))
    while engine.has_work:
        engine.step()
        engine.check_integrity()
    decoder.close()
    return [found[i] for i in range(len(jobs))]


def test_requests_with_different_adapters_at_the_same_time_get_the_tokens_that_each_gets_alone(
    model: Path, adapters: list[Path]
) -> None:
    sets: list[AdapterSet] = [(), ((0, 1.0),), ((1, 0.5),), ((0, 1.0), (1, 1.0))]
    jobs = [(prompt, sets[(i + k) % 4]) for k in range(2) for i, prompt in enumerate(PROMPTS)]
    alone = [greedy(model, adapters, [job])[0] for job in jobs]
    assert len({tuple(t) for t in alone}) > 5, "the adapters must change the text"
    assert greedy(model, adapters, jobs) == alone


def broken(source: Path, target: Path, **keys: Any) -> Path:
    return changed(source, target, {k.replace("__", "."): v for k, v in keys.items()})


def test_file_of_another_kind_or_model_is_refused(
    model: Path, adapters: list[Path], demo_gguf: Path, tmp_path: Path
) -> None:
    base, good = read_gguf(model), adapters[0]
    check_adapter(read_gguf(good), base)
    cases: list[tuple[Path, Path, type[TurboPilotError], str]] = [
        (good, demo_gguf, InvalidInput, "architecture 'llama', not phi2"),
        (model, model, InvalidInput, "is not a LoRA adapter, but a model"),
        (broken(good, tmp_path / "a.gguf", adapter__type=text("control_vector")), model, InvalidInput,
         "only lora is supported"),
        (broken(good, tmp_path / "b.gguf", adapter__lora__alpha=number("f32", float("nan"))), model, CorruptModel,
         "adapter.lora.alpha is nan"),
        (broken(good, tmp_path / "c.gguf", adapter__lora__alpha=text("16")), model, CorruptModel,
         "adapter.lora.alpha is '16'"),
        (broken(good, tmp_path / "d.gguf", adapter__alora__invocation_tokens=number("u32", 1)), model, InvalidInput,
         "aLoRA"),
    ]  # fmt: skip
    for file, of, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            check_adapter(read_gguf(file), read_gguf(of))
        assert str(file) in caught.value.message
    with pytest.raises(InvalidInput, match="is a LoRA adapter, not a model"):
        check_model(read_gguf(good))


def test_adapter_with_tensors_of_another_model_is_refused(
    checkpoint: Path, model: Path, adapters: list[Path], tmp_path: Path
) -> None:
    wide = tiny_checkpoint("llama", tmp_path / "wide", intermediate_size=512)
    convert(wide, tmp_path / "wide.gguf", dtype="f32")
    shallow = tiny_checkpoint("llama", tmp_path / "shallow", num_hidden_layers=2)
    convert(shallow, tmp_path / "shallow.gguf", dtype="f32")
    for other, message in (
        ("wide.gguf", r"'blk\.1\.ffn_gate\.weight\.lora_b' has the shape \(768, 8\)"),
        ("shallow.gguf", r"no tensor 'blk\.2\.attn_q\.weight'"),
    ):
        with pytest.raises(InvalidInput, match=message):
            check_adapter(read_gguf(adapters[0]), read_gguf(tmp_path / other))
    data = adapters[0].read_bytes()
    renamed = tmp_path / "renamed.gguf"
    renamed.write_bytes(data.replace(b"attn_q.weight.lora_a", b"attn_q.weight.lora_x"))
    with pytest.raises(InvalidInput, match=r"lora_x' cannot be applied"):
        check_adapter(read_gguf(renamed), read_gguf(model))
    renamed.write_bytes(data.replace(b"blk.0.attn_q.weight.lora_a", b"blk.9.attn_q.weight.lora_a"))
    with pytest.raises(CorruptModel, match=r"'blk\.[09]\.attn_q\.weight\.lora_[ab]' is missing"):
        check_adapter(read_gguf(renamed), read_gguf(model))
    renamed.write_bytes(data[:-1000])
    with pytest.raises(CorruptModel, match="outside the file"):
        read_gguf(renamed)


def test_adapter_that_ends_llama_cpp_is_lost_in_a_child(
    model: Path, adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gguf_get_val_f32 asserts the type of the key, which the header's reader does not know."""
    monkeypatch.delenv(trial.SKIP_VARIABLE, raising=False)
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    double = struct.pack("<Id", 12, 16.0)
    path = broken(adapters[0], tmp_path / "bad.gguf", adapter__lora__alpha=double)
    with pytest.raises(CorruptModel, match=r"bad\.gguf: cannot be applied: llama\.cpp's process"):
        load(model, ModelOptions(ctx=256, tunes=False), adapters=[path])
    decoder, _ = load(model, ModelOptions(ctx=256, tunes=False), adapters=adapters)
    assert [a.header.path for a in decoder.model.adapters] == adapters
    decoder.close()


def test_states_of_another_adapter_file_are_not_restored(model: Path, adapters: list[Path]) -> None:
    names = []
    for files in ([], adapters, adapters[::-1]):
        decoder, _ = load(model, ModelOptions(ctx=256, tunes=False), adapters=files)
        names.append(decoder.identity)
        decoder.close()
    assert len(set(names)) == 3


# --- HTTP


@pytest.fixture
def switched() -> Iterator[FlaskClient]:
    yield from client(can_switch=True)


@pytest.fixture
def fixed() -> Iterator[FlaskClient]:
    yield from client(can_switch=False)


def client(*, can_switch: bool) -> Iterator[FlaskClient]:
    scales = AdapterScales(options(1, 0, can_switch=can_switch))
    decoder = AdaptedDecoder(n_seq=4, n_batch=64, fim=None)
    service = host(Engine(decoder, EngineOptions(4)), text=AS_GIVEN)
    service.adapters = scales
    pool = ModelPool([PooledModel(service.model, 1, lambda: service, adapters=scales)], memory=1)
    with pool.use(""):
        pass
    yield create_app(pool).test_client()
    pool.close()


ROUTES: list[tuple[str, dict[str, Any], str]] = [
    ("/completion", {"n_predict": 5}, "content"),
    ("/v1/completions", {"max_tokens": 5}, "choices"),
]


def completed(c: FlaskClient, route: str, body: dict[str, Any], field: str, **more: Any) -> str:
    response = c.post(route, json={"prompt": "def f", "temperature": 0, **body, **more})
    assert response.status_code == 200, response.text
    found = response.get_json()[field]
    return str(found if field == "content" else found[0]["text"])


@pytest.mark.parametrize(("route", "body", "field"), ROUTES)
def test_field_lora_selects_adapters(
    switched: FlaskClient, route: str, body: dict[str, Any], field: str
) -> None:
    one = [{"id": 1, "scale": 0.5}]
    assert completed(switched, route, body, field) == expected("def f", 5, ((0, 1.0),))
    assert completed(switched, route, body, field, lora=one) == expected("def f", 5, ((1, 0.5),))
    off = [{"id": 0, "scale": 0}]
    assert completed(switched, route, body, field, lora=off) == expected("def f", 5, ())
    response = switched.post(route, json={"prompt": "x", "lora": [{"id": 7, "scale": 1}]})
    assert response.status_code == 400
    assert response.get_json()["error"]["param"] == "lora"


@pytest.mark.parametrize(("route", "body", "field"), ROUTES)
def test_field_lora_is_ignored_without_the_option(
    fixed: FlaskClient, route: str, body: dict[str, Any], field: str
) -> None:
    for lora in ([{"id": 1, "scale": 0.5}], [{"id": 7, "scale": 1}], []):
        text = completed(fixed, route, body, field, lora=lora)
        assert text == expected("def f", 5, ((0, 1.0),))


def test_scales_are_listed_and_changed_for_all_requests(switched: FlaskClient) -> None:
    listed = switched.get("/lora-adapters").get_json()
    assert listed == [
        {"id": 0, "path": "0.gguf", "scale": 1.0},
        {"id": 1, "path": "1.gguf", "scale": 0.0},
    ]
    changed = switched.post("/lora-adapters", json=[{"id": 1, "scale": 0.25}])
    assert changed.get_json() == {"success": True}
    assert [a["scale"] for a in switched.get("/lora-adapters").get_json()] == [0.0, 0.25]
    assert completed(switched, *ROUTES[0]) == expected("def f", 5, ((1, 0.25),))
    health = switched.get("/health").get_json()
    assert health["models"][0]["lora"][1] == {"id": 1, "name": "1.gguf", "scale": 0.25}
    for body in ([{"id": 5, "scale": 1}], [{"id": 0}], [{"id": 0, "scale": "1"}], {"id": 0}, [7]):
        assert switched.post("/lora-adapters", json=body).status_code == 400
    assert [a["scale"] for a in switched.get("/lora-adapters").get_json()] == [0.0, 0.25]


def test_scales_cannot_be_changed_without_the_option(fixed: FlaskClient) -> None:
    response = fixed.post("/lora-adapters", json=[{"id": 1, "scale": 1}])
    assert response.status_code == 403
    assert response.get_json()["error"]["code"] == "lora_switch_not_allowed"
    assert fixed.get("/lora-adapters").get_json()[0]["scale"] == 1.0


# --- the command


def test_wrong_adapter_options_are_refused(
    model: Path, adapters: list[Path], tmp_path: Path
) -> None:
    for option, message in (
        ([f"{adapters[0]}:much"], "the scale 'much' is not a number from -1000 to 1000"),
        ([f"{adapters[0]}:1e9"], "is not a number from -1000 to 1000"),
        ([str(tmp_path / "absent.gguf")], "no such file"),
        ([str(model)], "is not a LoRA adapter, but a model"),
    ):
        done = run_serve(str(model), "--lora", *option, "--port", "0", cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert message in " ".join(done.stderr.split())
    done = run_serve(str(adapters[0]), "--port", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert "is a LoRA adapter, not a model" in " ".join(done.stderr.split())


def test_server_lists_its_adapters_in_the_log(
    model: Path, adapters: list[Path], tmp_path: Path
) -> None:
    config = tmp_path / "turbopilot.toml"
    (tmp_path / "style.gguf").write_bytes(adapters[0].read_bytes())
    config.write_text(f'lora = ["style.gguf:0.5", "{adapters[1]}"]\nlora-switch = true\n')
    command = serve_command(str(model), "--config", str(config), "--port", "0", "--ctx", "256")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env
    ) as process:
        try:
            said, _ = wait_until_ready(process)
        finally:
            process.terminate()
    assert f"LoRA     0: {tmp_path / 'style.gguf'}, scale 0.5" in said
    assert f"LoRA     1: {adapters[1]}, scale 1" in said


def test_adapters_belong_to_the_default_model_and_count_as_memory(
    model: Path, adapters: list[Path]
) -> None:
    plain = make_pool(ServerOptions(model), lambda _: None)
    with_one = AdapterOptions((AdapterFile(adapters[0], 1.0),))
    pool = make_pool(ServerOptions(model, adapters=with_one), lambda _: None)
    assert [s.path for s in pool.adapters.states] == [adapters[0]]
    bytes_of = [p._models[0].n_bytes for p in (pool, plain)]
    assert bytes_of[0] > bytes_of[1]
