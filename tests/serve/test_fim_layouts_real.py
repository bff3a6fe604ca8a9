"""Every layout on a tiny random model: prompts of the server equal those framed by hand with reference tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from flask.testing import FlaskClient
from tokenizers import AddedToken, Tokenizer

from converters import convert
from serve.engine import Engine
from serve.http.app import create_app
from serve.llama import load
from serve.models.loading import host
from serve.prompt.bound_layout import tokens_of
from serve.prompt.layouts import LAYOUTS
from serve.settings import ModelOptions, TextOptions
from tests.support.serving import pool_of
from tests.support.tiny import EOS, tiny_checkpoint, tiny_tokenizer
from tests.support.tokenizer_samples import sentencepiece_bytes
from turbopilot.base.errors import InvalidInput

PREFIX, SUFFIX = (
    "def area(width, height):\n    if ",
    ":\n        return 0\n    return width * height\n",
)
FAR = "WIDTH = 3\n"
BY_HAND = {"p": PREFIX, "s": SUFFIX, "far": FAR}

# The prompt as cards, papers and the authors' code write it; the same with another file, if they say how; and the
# same texts in an order that the model was not trained on.
CARDS: dict[str, tuple[str, str, str]] = {
    "starcoder": (
        "<fim_prefix>{p}<fim_suffix>{s}<fim_middle>", "", "<fim_suffix>{s}<fim_prefix>{p}<fim_middle>",
    ),
    "starcoder-spm": (
        "<fim_prefix><fim_suffix>{s}<fim_middle>{p}", "", "<fim_prefix>{p}<fim_suffix>{s}<fim_middle>",
    ),
    "starcoder2": (
        "<fim_prefix>{p}<fim_suffix>{s}<fim_middle>",
        "<repo_name>code<file_sep>far.py\n{far}<file_sep><fim_prefix>code\n{p}<fim_suffix>{s}<fim_middle>",
        "<fim_suffix>{s}<fim_prefix>{p}<fim_middle>",
    ),
    "refact": ("<fim_prefix>{p}<fim_suffix>{s}<fim_middle>", "", "<fim_suffix>{s}<fim_prefix>{p}<fim_middle>"),
    "granite": ("<fim_prefix>{p}<fim_suffix>{s}<fim_middle>", "", "<fim_suffix>{s}<fim_prefix>{p}<fim_middle>"),
    "mellum": (
        "<fim_suffix>{s}<fim_prefix>{p}<fim_middle>",
        "<filename>far.py\n{far}<filename>code\n<fim_suffix>{s}<fim_prefix>{p}<fim_middle>",
        "<fim_prefix>{p}<fim_suffix>{s}<fim_middle>",
    ),
    "santacoder": ("<fim-prefix>{p}<fim-suffix>{s}<fim-middle>", "", "<fim-suffix>{s}<fim-prefix>{p}<fim-middle>"),
    "santacoder-spm": (
        "<fim-prefix><fim-suffix>{s}<fim-middle>{p}", "", "<fim-prefix>{p}<fim-suffix>{s}<fim-middle>",
    ),
    "qwen": (
        "<|fim_prefix|>{p}<|fim_suffix|>{s}<|fim_middle|>",
        "<|repo_name|>code\n<|file_sep|>far.py\n{far}<|file_sep|>code\n<|fim_prefix|>{p}<|fim_suffix|>{s}<|fim_middle|>",
        "<|fim_suffix|>{s}<|fim_prefix|>{p}<|fim_middle|>",
    ),
    "codegemma": (
        "<|fim_prefix|>{p}<|fim_suffix|>{s}<|fim_middle|>", "", "<|fim_suffix|>{s}<|fim_prefix|>{p}<|fim_middle|>",
    ),
    "deepseek": (
        "<｜fim▁begin｜>{p}<｜fim▁hole｜>{s}<｜fim▁end｜>", "", "<｜fim▁hole｜>{s}<｜fim▁begin｜>{p}<｜fim▁end｜>",
    ),
    "glm": (
        "<|code_prefix|>{p}<|code_suffix|>{s}<|code_middle|>", "",
        "<|code_suffix|>{s}<|code_prefix|>{p}<|code_middle|>",
    ),
    "seed-coder": (
        "<[fim-suffix]>{s}<[fim-prefix]>{p}<[fim-middle]>", "", "<[fim-prefix]>{p}<[fim-suffix]>{s}<[fim-middle]>",
    ),
}  # fmt: skip
TOKENS = (
    "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<reponame>", "<filename>", "<repo_name>", "<file_sep>",
    "<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
    "<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>",
    "<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", "<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>",
)  # fmt: skip
# The same for SentencePiece, as pieces and texts: a name in capitals is a token, "_" stands for the added space.
SPACED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "codellama": (("▁<PRE>", "_p", "▁<SUF>", "s", "▁<MID>"), ("▁<SUF>", "s", "▁<PRE>", "_p", "▁<MID>")),
    "codellama-spm": (("▁<PRE>", "▁<SUF>", "s", "▁<MID>", "_p"), ("▁<PRE>", "_p", "▁<SUF>", "s", "▁<MID>")),
    "codestral": (("[SUFFIX]", "s", "[PREFIX]", "_p"), ("[PREFIX]", "_p", "[SUFFIX]", "s")),
}  # fmt: skip
SPACED_TOKENS = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>", "[SUFFIX]", "[PREFIX]", "[MIDDLE]")
SENT = {  # by Zed and Continue
    "codellama": "<PRE> {p} <SUF>{s} <MID>",
    "codellama-spm": "<PRE> <SUF>{s} <MID> {p}",
    "codestral": "[SUFFIX]{s}[PREFIX]{p}",
}

# A random model may begin with one of these; the texts would be too short to differ.
NO_TOKENS = {"logit_bias": [[token, False] for token in (*TOKENS, EOS)]}


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose tokenizer has the tokens of all byte-level layouts."""
    folder = tiny_checkpoint("llama", tmp_path_factory.mktemp("bpe") / "source")
    tokenizer = tiny_tokenizer((), digits=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    convert(folder, folder.with_name("model.gguf"), dtype="f32")
    return folder


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a SentencePiece tokenizer that has the tokens of CodeLlama and Codestral."""
    folder = tiny_checkpoint(
        "llama",
        tmp_path_factory.mktemp("pieces") / "source",
        vocab_size=1216,
        bos_token_id=1,
        eos_token_id=2,
    )
    (folder / "tokenizer.json").unlink()
    model = sentencepiece_bytes(control_symbols=",".join(SPACED_TOKENS))
    (folder / "tokenizer.model").write_bytes(model)
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "tokenizer_class": "LlamaTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    convert(folder, folder.with_name("model.gguf"), dtype="f32")
    return folder


@pytest.fixture
def client_of() -> Iterator[Callable[[Path, str], FlaskClient]]:
    """Function that serves a model with a layout; neither healing nor the end of loops changes its completions."""
    with ExitStack() as stack:

        def serve(file: Path, layout: str) -> FlaskClient:
            options = ModelOptions(threads=1, ctx=512, n_seq=1, tunes=False, fim_layout=layout)
            decoder, _ = load(file, options)
            text = TextOptions(heals=False, ends_loops=False)
            service = host(Engine(decoder), text=text, free=decoder.close)
            stack.callback(service.close)
            return create_app(pool_of(service)).test_client()

        yield serve


def complete(client: FlaskClient, **body: Any) -> str:
    answer = client.post("/v1/completions", json={"max_tokens": 12, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    return str(answer.get_json()["choices"][0]["text"])


def infill(client: FlaskClient, **body: Any) -> str:
    asked = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "n_predict": 12, "temperature": 0}
    answer = client.post("/infill", json={**asked, **body})
    assert answer.status_code == 200, answer.text
    return str(answer.get_json()["content"])


@pytest.mark.parametrize("layout", CARDS)
def test_completion_equals_that_of_the_prompt_framed_as_on_the_card(
    client_of: Callable[[Path, str], FlaskClient], byte_level: Path, layout: str
) -> None:
    client = client_of(byte_level.with_name("model.gguf"), layout)
    tokenizer = Tokenizer.from_file(str(byte_level / "tokenizer.json"))

    def by_hand(text: str) -> list[int]:
        return list(tokenizer.encode(text.format(**BY_HAND), add_special_tokens=False).ids)

    card, with_file, wrong = CARDS[layout]
    wanted = complete(client, prompt=by_hand(card), **NO_TOKENS)
    assert wanted
    assert infill(client, **NO_TOKENS) == wanted
    assert complete(client, prompt=PREFIX, suffix=SUFFIX, **NO_TOKENS) == wanted
    assert complete(client, prompt=card.format(**BY_HAND), **NO_TOKENS) == wanted
    assert complete(client, prompt=by_hand(wrong), **NO_TOKENS) != wanted
    if with_file:
        extra = [{"filename": "far.py", "text": FAR}]
        among_files = infill(client, input_extra=extra, **NO_TOKENS)
        assert among_files == complete(client, prompt=by_hand(with_file), **NO_TOKENS) != wanted


@pytest.mark.parametrize("layout", SPACED)
def test_completion_of_sentencepiece_models_equals_that_of_the_authors_code(
    client_of: Callable[[Path, str], FlaskClient], spaced: Path, layout: str
) -> None:
    client = client_of(spaced.with_name("model.gguf"), layout)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(spaced / "tokenizer.model"))

    def by_hand(parts: tuple[str, ...]) -> list[int]:
        ids = [processor.bos_id()]
        for part in parts:
            if part == "_p":
                ids += processor.encode(PREFIX)
            elif part == "s":  # as Meta's `encode_infilling` and Mistral's `encode_fim`
                ids += processor.encode("☺" + SUFFIX)[len(processor.encode("☺")) :]
            else:
                ids.append(processor.piece_to_id(part))
        return ids

    right, wrong = map(by_hand, SPACED[layout])
    wanted = complete(client, prompt=right)
    assert wanted
    assert infill(client) == wanted
    assert complete(client, prompt=PREFIX, suffix=SUFFIX) == wanted
    assert complete(client, prompt=SENT[layout].format(**BY_HAND)) == wanted
    assert complete(client, prompt=wrong) != wanted


def test_every_layout_is_tested() -> None:
    assert {*CARDS, *SPACED} == {layout.name for layout in LAYOUTS}


def test_layout_without_its_tokens_is_refused(byte_level: Path) -> None:
    options = ModelOptions(threads=1, fim_layout="codestral")
    with pytest.raises(InvalidInput, match=r"--fim-layout codestral: model\.gguf has no token"):
        load(byte_level.with_name("model.gguf"), options)


@pytest.mark.parametrize("layout", ["starcoder2", "qwen", "mellum", "codegemma"])
def test_tokens_of_the_layout_end_a_completion_and_have_no_text(
    byte_level: Path, layout: str
) -> None:
    options = ModelOptions(threads=1, ctx=128, n_seq=1, fim_layout=layout)
    decoder, _ = load(byte_level.with_name("model.gguf"), options)
    (meant,) = (x for x in LAYOUTS if x.name == layout)
    try:
        for token in tokens_of(meant.infill + meant.project + meant.file):
            (number,) = decoder.tokenize(token, parse_special=True)
            assert decoder.is_eog(number), token
            assert decoder.piece(number) == b"", token
    finally:
        decoder.close()
