"""Damaged and hostile tokenizer files: a reader accepts the file, or raises an error that names it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from converters.tokenizer import files, trial
from converters.tokenizer.files import read_json
from converters.tokenizer.sentencepiece_model import parse_model
from tests.support.tokenizer_samples import (
    EOS,
    byte_level,
    read,
    save,
    save_byte_level,
    sentencepiece_bytes,
)
from turbopilot.base.errors import (
    CorruptCheckpoint,
    InvalidInput,
    TokenizerMismatch,
    TurboPilotError,
)

FUZZ = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.sampled_from(["\ud800", "\0", EOS, "", "▁", "</s>", "Sequence", "ByteLevel"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


def small() -> dict[str, Any]:
    """Return a complete tokenizer.json with a few hundred tokens."""
    data: dict[str, Any] = json.loads(byte_level("gpt2"))
    letters = [t for t in data["model"]["vocab"] if len(t) == 1]
    merges = [m for m in data["model"]["merges"] if len("".join(m)) == 2][:20]
    data["model"]["vocab"] = {t: i for i, t in enumerate([*letters, *map("".join, merges)])}
    data["model"]["merges"] = merges
    n = len(data["model"]["vocab"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    data["added_tokens"] = [{"id": n, "content": EOS, "special": True, **flags}]
    return data


CONFIG = {
    "eos_token": EOS, "bos_token": {"content": EOS, "lstrip": False},
    "chat_template": [{"name": "default", "template": "x"}],
    "added_tokens_decoder": {"300": {"content": "[PAD]", "special": True}}, "additional_special_tokens": [EOS],
    "add_bos_token": True,
}  # fmt: skip

BESIDE: dict[str, Any] = {
    "tokenizer_config.json": CONFIG, "special_tokens_map.json": CONFIG, "added_tokens.json": {"[PAD]": 300, EOS: 276},
    "generation_config.json": {"eos_token_id": [276]},
}  # fmt: skip
ROLES = ("eos_token_id", "bos_token_id", "pad_token_id")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values; of long lists and objects, only the first few."""
    found = [path]
    if not isinstance(value, dict | list):
        return found
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in list(inner)[:12]:
        found += places(part, (*path, key))
    return found


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


@contextmanager
def refused_at_most(path: Path) -> Iterator[None]:
    """Allow only TurboPilotError, which must name the file or folder."""
    try:
        yield
    except TurboPilotError as e:
        named = str(path) in e.message
    else:
        named = True
    assert named


def read_or_refuse(folder: Path, **config: Any) -> None:
    with refused_at_most(folder):
        read(folder, 400, **config)


@pytest.fixture(autouse=True)
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "find_spec", lambda name: None)


@FUZZ
@given(data=st.data())
def test_changed_tokenizer_json_is_read_or_rejected(tmp_path: Path, data: st.DataObject) -> None:  # fmt: skip
    whole = small()
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(places(whole)))
        whole = put(whole, path, data.draw(JSON))
    save(tmp_path, whole)
    read_or_refuse(tmp_path)


@FUZZ
@given(data=st.data())
def test_changed_accompanying_file_is_read_or_rejected(tmp_path: Path, data: st.DataObject) -> None:  # fmt: skip
    save(tmp_path, small())
    name = data.draw(st.sampled_from([*BESIDE]))
    whole = BESIDE[name]
    path = data.draw(st.sampled_from(places(whole)))
    (tmp_path / name).write_text(json.dumps(put(whole, path, data.draw(JSON))), "utf-8")
    roles = {key: data.draw(JSON) for key in data.draw(st.sets(st.sampled_from(ROLES)))}
    read_or_refuse(tmp_path, **roles)
    (tmp_path / name).unlink()


@FUZZ
@given(
    raw=st.binary(max_size=40) | st.text(max_size=40).map(str.encode),
    at=st.integers(0, 3000),
    cut=st.integers(0, 30),
)
@example(raw=b"[" * 100_000, at=0, cut=0)
@example(raw=b'{"a":1,"a":2}', at=0, cut=10**6)
@example(raw=b'{"a":' + b"9" * 5000 + b"}", at=0, cut=10**6)
@example(raw=b"\xef\xbb\xbf{}", at=0, cut=10**6)
def test_damaged_tokenizer_json_is_read_or_rejected(
    tmp_path: Path, raw: bytes, at: int, cut: int
) -> None:
    save(tmp_path, small())
    path = tmp_path / "tokenizer.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + raw + whole[at + cut :])
    read_or_refuse(tmp_path)
    with refused_at_most(path):
        read_json(path)


@FUZZ
@given(raw=st.binary(max_size=60), at=st.integers(0, 25_000), cut=st.integers(0, 30_000))
def test_damaged_tokenizer_model_is_read_or_rejected(
    tmp_path: Path, raw: bytes, at: int, cut: int
) -> None:
    whole = sentencepiece_bytes()
    (tmp_path / "tokenizer.model").write_bytes(whole[:at] + raw + whole[at + cut :])
    with refused_at_most(tmp_path / "tokenizer.model"):
        read(tmp_path)


@FUZZ
@given(raw=st.binary(max_size=200))
def test_random_bytes_do_not_crash_the_sentencepiece_reader(raw: bytes) -> None:
    with suppress(ValueError):
        assert parse_model(raw).pieces


def test_pieces_equal_those_of_sentencepiece() -> None:
    model = sentencepiece_bytes()
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model)
    ours = parse_model(model)
    n = theirs.get_piece_size()
    assert [text for text, _, _ in ours.pieces] == [theirs.id_to_piece(i) for i in range(n)]
    assert [score for _, score, _ in ours.pieces] == [theirs.get_score(i) for i in range(n)]
    assert ours.special_ids == {"unk": 0, "bos": 1, "eos": 2, "pad": -1}
    kinds = [kind for _, _, kind in ours.pieces]
    assert [k == 6 for k in kinds] == [theirs.is_byte(i) for i in range(n)]
    assert [k == 3 for k in kinds] == [theirs.is_control(i) for i in range(n)]


NAMED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an id twice": (lambda d: d["model"]["vocab"].update({"!": 5}), "share the id 5"),
    "an id beyond": (lambda d: d["model"]["vocab"].update({"!": 400}), "'!' has id 400, .* rows 0 to 399"),
    "an id below zero": (lambda d: d["model"]["vocab"].update({"!": -1}), "'!' has id -1"),
    "a boolean id": (lambda d: d["model"]["vocab"].update({"!": True}), "'!' has id True"),
    "a huge id": (lambda d: d["model"]["vocab"].update({"!": 10**50}), "'!' has id 1000"),
    "an added token twice": (lambda d: d["added_tokens"].append(d["added_tokens"][0]), "'<|endoftext|>' occurs twice"),
    "an added token beyond": (lambda d: d["added_tokens"][0].update(id=400), "'<|endoftext|>' has id 400"),
    "an added token's id taken": (lambda d: d["added_tokens"][0].update(id=5), "share the id 5"),
    "an added token with another number": (lambda d: d["added_tokens"][0].update(id=300), "tokenizers gives it 276"),
    "an added token with two ids": (lambda d: d["added_tokens"][0].update(content="!"), "'!' has the ids 0 and 276"),
    "a zero byte": (lambda d: d["added_tokens"][0].update(content="a\0"), r"'a\\x00' contains a zero byte"),
    "an invalid Unicode text": (lambda d: d["added_tokens"][0].update(content="\ud800"), r"'\\ud800' is not Unicode"),
    "a merge of an unknown token": (lambda d: d["model"]["merges"].append(["!", "é!"]), "'é!', which is not a token"),
    "a merge of three": (lambda d: d["model"]["merges"].append(["a", "b", "c"]), "is not a merge"),
    "a merge that is a number": (lambda d: d["model"]["merges"].append(7), "7 is not a merge"),
    "a Unigram model": (lambda d: d["model"].update(type="Unigram"), "its model is Unigram, not BPE"),
    "no vocabulary": (lambda d: d["model"].pop("vocab"), "its vocabulary is NoneType"),
    "no merges": (lambda d: d["model"].update(merges=[]), "has no merges"),
    "a prefix": (lambda d: d["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix"),
    "lower case": (lambda d: d.update(normalizer={"type": "Lowercase"}), "normalises text \\(Lowercase\\)"),
    "a token that strips whitespace": (
        lambda d: d["added_tokens"].append({"id": 277, "content": "<x>", "special": False, "lstrip": True}),
        "'<x>' strips whitespace",
    ),
    "a space before": (
        lambda d: d.update(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), "adds a space before text"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_error_describes_the_fault_in_tokenizer_json(case: str, tmp_path: Path) -> None:
    change, message = NAMED[case]
    data = small()
    assert len(data["model"]["vocab"]) == 276
    change(data)
    save(tmp_path, data)
    with pytest.raises((TokenizerMismatch, CorruptCheckpoint), match=message) as caught:
        read(tmp_path, 400)
    assert str(tmp_path / "tokenizer.json") in caught.value.message


MANY_DIGITS = json.dumps({"added_tokens_decoder": {"9" * 5000: {"content": "x"}}})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", '{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ("tokenizer.json", "[]", "contains list, not an object"),
        ("tokenizer.json", '{"a": NaN}', "NaN is not a JSON number"),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n", "not JSON"),
        ("tokenizer_config.json", "{", "not JSON"),
        ("tokenizer_config.json", MANY_DIGITS, "is not an added token"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"277": {"content": "!"}}}', "'!' has the ids 0 and 277"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"5": {"content": "[PAD]"}}}', "share the id 5"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "added_tokens_decoder is not an object"),
        ("added_tokens.json", '{"[PAD]": 9000}', "'\\[PAD\\]' has id 9000"),
        ("added_tokens.json", '{"[PAD]": "277"}', "'\\[PAD\\]' has the id '277'"),
    ],
)  # fmt: skip
def test_error_names_the_damaged_file(name: str, text: str, message: str, tmp_path: Path) -> None:
    save(tmp_path, small())
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises((TokenizerMismatch, CorruptCheckpoint), match=message) as caught:
        read(tmp_path, 400)
    assert str(tmp_path) in caught.value.message


def test_missing_empty_and_huge_files_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInput, match=r"contains no tokenizer.json"):
        read(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({EOS: 0, "a": 1}), "utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    with pytest.raises(CorruptCheckpoint, match=r"merges.txt: contains no merges"):
        read(tmp_path)
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CorruptCheckpoint, match=r"merges.txt: is not UTF-8"):
        read(tmp_path)
    save_byte_level(tmp_path, "gpt2")
    monkeypatch.setattr(files, "_MAX_BYTES", 1000)
    with pytest.raises(CorruptCheckpoint, match="too many for a tokenizer"):
        read(tmp_path)


def test_rows_without_tokens_get_unique_texts(tmp_path: Path) -> None:
    data = small()
    data["added_tokens"].append({"id": 277, "content": "[PAD390]", "special": False})
    save(tmp_path, data)
    tokens = read(tmp_path, 400).tokens
    assert len(set(tokens)) == 400
    assert (tokens[277], tokens[390]) == ("[PAD390]", "[[PAD390]]")
