"""Lies in config.json: a plan or a clear error, in bounded time and memory, before any work."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from converters.config_ranges import RANGES
from converters.hfconfig import MAX_BYTES, HfConfig
from converters.plan import plan
from converters.prepare import dry_run, prepare
from converters.registry import FAMILIES, find
from converters.tokenizer.added import overlapping
from converters.tokenizer.metadata import AddedToken
from converters.writer import header
from tests.support.published import NAMES, Published, published, published_config
from tests.support.tiny import tiny_checkpoint
from turbopilot.base.errors import (
    CorruptCheckpoint,
    TokenizerMismatch,
    TurboPilotError,
    UnsupportedModel,
)

FUZZ = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))  # fmt: skip
MEMORY = 1 << 30  # bytes that a plan may take in addition to what the process has
DEEP = json.loads("[" * 600 + "]" * 600)
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 7, 1000, 1_000_000, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64,
    10**18, 10**400, -(2**63), -(10**400), 0.0, -0.5, 0.5, 1.5, 1e-320, 1e38, 1e39, 1e308, -1e308, float("nan"),
    float("inf"), float("-inf"), "", "1", "1e5", "x" * 100_000, "\ud800", "\0", "../../etc/passwd", [], [1],
    [[1, 2], "a"], [10**18] * 100, {}, {"a": 1}, {"rope_type": "linear", "factor": 10**400}, {"type": ["linear"]},
    {"rope_theta": 2**70}, {"quant_method": "x" * 1000}, DEEP,
]  # fmt: skip
# read from any family's config, besides the fields that published configs have
MORE_FIELDS = (
    "bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id", "rope_scaling", "rope_parameters", "rope_type",
    "quantization_config", "compression_config", "attention_bias", "mlp_bias", "head_dim", "n_inner", "sliding_window",
    "tie_word_embeddings", "multi_query", "partial_rotary_factor", "rotary_pct", "rotary_emb_base", "factor", "type",
)  # fmt: skip


@contextmanager
def limited_memory() -> Iterator[None]:
    """Limit this process's address space, so that an excessive allocation raises MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="session", params=["codegen", "llama"])
def pristine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint whose config has the field names of GPT-2 or those of Llama."""
    return tiny_checkpoint(request.param, tmp_path_factory.mktemp("config") / "tiny", dtype="f16")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "tiny"
    copy.mkdir()
    for path in pristine.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "config.json").unlink()
    shutil.copyfile(pristine / "config.json", copy / "config.json")
    return copy


def config_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return values


def write_config(folder: Path, values: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(values), "utf-8")


def accepts_or_explains(folder: Path) -> None:
    """Plan a conversion and write its header: nothing but an error of ours may be raised."""
    with suppress(TurboPilotError), limited_memory(), prepare(folder) as p:
        values = {**p.plan.metadata, **p.tokenizer.metadata()}
        header(p.plan.spec.gguf, values, p.plan.tensors)


@cache
def geometry(name: str) -> Published:
    """Return a published geometry cut to two layers, except CodeGen2's, whose sizes are fixed."""
    model = published(name)
    if name.startswith("codegen2"):
        return model
    values = model.config.values
    depth = next(field for field in ("n_layer", "num_hidden_layers") if field in values)
    later = re.compile(r"\.(?:h|layers)\.([2-9]|\d\d+)\.")
    kept = {n: t for n, t in model.sources.items() if not later.search(n)}
    short = Published(model.repository, HfConfig({**values, depth: 2}), kept)
    plan(find(short.config), short.config, short.sources, "F16")
    return short


@cache
def of_each_family() -> tuple[str, ...]:
    """Return a published model of each family."""
    found = {id(find(published_config(name))): name for name in reversed(NAMES)}
    assert len(found) == len(FAMILIES)
    return tuple(found.values())


def plans_or_explains(name: str, values: dict[str, Any]) -> None:
    config = HfConfig(values)
    with suppress(TurboPilotError), limited_memory():
        planned = plan(find(config), config, geometry(name).sources, "F16")
        header(planned.spec.gguf, planned.metadata, planned.tensors)


@given(st.data())
@FUZZ
def test_hostile_values_in_a_checkpoint_are_accepted_or_explained(
    folder: Path, data: st.DataObject
) -> None:
    values = config_of(folder)
    for _ in range(data.draw(st.integers(1, 3))):
        field = data.draw(st.sampled_from([*values, *MORE_FIELDS]))
        values[field] = data.draw(st.sampled_from(HOSTILE))
    kept = (folder / "config.json").read_bytes()
    write_config(folder, values)
    accepts_or_explains(folder)
    (folder / "config.json").write_bytes(kept)


@given(st.data())
@FUZZ
def test_hostile_values_in_any_family_are_planned_or_explained(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(of_each_family()))
    values = dict(geometry(name).config.values)
    field = data.draw(st.sampled_from([*values, *MORE_FIELDS]))
    plans_or_explains(name, {**values, field: data.draw(st.sampled_from(HOSTILE))})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("nth", range(len(FAMILIES)))
def test_every_hostile_value_in_every_field_is_planned_or_explained(nth: int) -> None:
    model = of_each_family()[nth]
    values = geometry(model).config.values
    for field in {*values, *MORE_FIELDS}:
        for hostile in HOSTILE:
            plans_or_explains(model, {**values, field: hostile})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("n_layer", 1_000_000, ["1000000", "an integer from 1 to 512", "LLAMA_MAX_LAYERS"]),
        ("n_layer", 12.5, ["12.5", "an integer from 1 to 512"]),
        ("layer_norm_epsilon", 1e308, ["1e+308", "a number from 1e-12 to 0.01"]),
        ("layer_norm_epsilon", 10**400, ["10000", "a number from 1e-12 to 0.01"]),
        ("layer_norm_epsilon", -1e-5, ["-1e-05", "a number from"]),
        ("layer_norm_epsilon", float("nan"), ["NaN", "a number from"]),
        ("n_positions", 10**18, ["1000000000000000000", "1 to 16,777,216"]),
        ("vocab_size", 2**63, [str(2**63), "1 to 1,048,576"]),
        ("n_embd", "x" * 100_000, ["xxx...", "an integer from 1 to 65,536"]),
        ("n_head", [1], ["a list", "an integer from"]),
        ("rotary_dim", 3, ["3 rotary dimensions: must be even"]),
        ("rotary_dim", -2, ["-2", "an integer from 2 to 1,024"]),
    ],
)
def test_error_names_file_field_value_and_range(field: str, value: Any, words: list[str]) -> None:
    config = HfConfig({**published_config("codegen-350M").values, field: value}, "x/config.json")
    with pytest.raises(UnsupportedModel) as e:
        plan(find(config), config, {}, "F16")
    for word in ("x/config.json", field.partition("_")[0], *words):
        assert word in str(e.value)
    assert max(map(len, str(e.value).splitlines())) < 250


@pytest.mark.parametrize("value", [3, "CodeGenForCausalLM", {"a": 1}, [3]])
def test_architectures_of_a_wrong_type_are_explained(value: Any) -> None:
    with pytest.raises(UnsupportedModel, match="architectures is not a list of names"):
        find(HfConfig({"architectures": value}))


def test_long_architecture_name_is_cut() -> None:
    with pytest.raises(UnsupportedModel) as e:
        find(HfConfig({"architectures": ["x" * 1_000_000]}))
    assert len(str(e.value)) < 250


@pytest.mark.parametrize("name", NAMES)
def test_every_published_value_is_in_its_range(name: str) -> None:
    values = published_config(name).values
    read = {f: v for f, v in values.items() if f in RANGES and v is not None}
    assert len(read) >= 6
    assert {f: v for f, v in read.items() if v not in RANGES[f]} == {}


def test_huge_config_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as f:
        f.truncate(MAX_BYTES + 1)
    with pytest.raises(CorruptCheckpoint, match=r"config\.json: has 4,194,305 bytes"):
        dry_run(folder)


def test_deep_json_is_explained(folder: Path) -> None:
    """Nest JSON about as deep as Python's parser allows, so that later steps reach the limit of recursion."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").unlink()
    for depth in (100, 300, 450):
        step: dict[str, Any] = tokenizer["pre_tokenizer"]
        for _ in range(depth):
            step = {"type": "Sequence", "pretokenizers": [step]}
        (folder / "tokenizer.json").write_text(
            json.dumps({**tokenizer, "pre_tokenizer": step}), "utf-8"
        )
        accepts_or_explains(folder)


def test_huge_dimension_of_an_empty_tensor_is_explained(folder: Path) -> None:
    """Give a tensor without data a shape whose rows cannot be counted in memory."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8 : 8 + n])
    name = next(name for name in head if "norm" in name or "ln_" in name)
    head[name] = {"dtype": "F16", "shape": [2**50, 0], "data_offsets": [0, 0]}
    new = json.dumps(head).encode()
    path.unlink()
    path.write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + n :])
    with limited_memory(), pytest.raises(TurboPilotError, match="misshapen"):
        dry_run(folder)


@pytest.mark.parametrize(
    ("token", "words"),
    [("a" * 2000, "2,000 characters; at most 1,024"), ("many", "added tokens have")],
)
def test_excessive_added_tokens_are_rejected(folder: Path, token: str, words: str) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text("utf-8"))
    n_new = 1 if token != "many" else 1100
    rows = config_of(folder)["vocab_size"]
    taken = max(data["model"]["vocab"].values()) + len(data["added_tokens"]) + 1
    config = {**config_of(folder), "vocab_size": rows + n_new}
    for i in range(n_new):
        text = token if n_new == 1 else f"{i:04}" + "z" * 1000
        data["added_tokens"].append({"id": taken + i, "content": text, "special": True})
    path.unlink()
    path.write_text(json.dumps(data), "utf-8")
    write_config(folder, config)
    from converters.tokenizer import read_tokenizer

    with limited_memory(), pytest.raises((TokenizerMismatch, CorruptCheckpoint), match=words):
        read_tokenizer(folder, "gpt-2", config["vocab_size"], config)


@given(st.lists(st.text("ab<>", min_size=1, max_size=6), max_size=8, unique=True))
@example(["<a><b", "<b>c"])
@example(["aa", "aaa"])
@settings(deadline=None)
def test_overlapping_tokens_are_found(texts: list[str]) -> None:
    def overlaps(text: str, other: str) -> bool:
        both_runs = len(set(text)) == 1 and len(set(other)) == 1
        ends = (text[n:] for n in range(1, len(text)))
        return not both_runs and any(other != end and other.startswith(end) for end in ends)

    found = overlapping(AddedToken(text, i, True) for i, text in enumerate(texts))
    wanted = [text for text in texts if any(overlaps(text, other) for other in texts)]
    assert [message.split("'")[1] for message in found] == wanted


@pytest.mark.parametrize("charsmap", ["", "AAAA", "////", "A" * 100_000, 3, None, "\ud800"])
def test_precompiled_normalizer_is_refused(folder: Path, charsmap: Any) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text("utf-8"))
    data["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    path.unlink()
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(TokenizerMismatch, match=r"normalises text \(Precompiled\)"):
        dry_run(folder)
