"""Small trained tokenizers of every kind in Hugging Face files, and llama.cpp's tokenizer to compare with."""

from __future__ import annotations

import ctypes
import json
import sysconfig
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import llama_cpp
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre

from converters.tokenizer import GgufTokenizer, read_tokenizer
from converters.tokenizer.trial_file import write_vocabulary

EOS: Final = "<|endoftext|>"
N_BASE: Final = 1800  # tokens of a byte-level BPE without added tokens
N_VOCAB: Final = 2100  # rows of the embedding, more than the tokens of any of these tokenizers
SPACE: Final = "▁"

# Regexes as in the published files.
QWEN2: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3: Final = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
SEED: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3: Final = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
QWEN35: Final = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(
    r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"
)
GPT4O: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def isolated(*regexes: str) -> list[pre.PreTokenizer]:
    return [pre.Split(Regex(regex), "isolated") for regex in regexes]


def gpt2_bytes(*, use_regex: bool = False) -> pre.PreTokenizer:
    return pre.ByteLevel(add_prefix_space=False, use_regex=use_regex)


# kind → pre-tokenizers
CUTS: Final[Mapping[str, Callable[[], list[pre.PreTokenizer]]]] = {
    "gpt2": lambda: [gpt2_bytes(use_regex=True)],
    "starcoder": lambda: [pre.Digits(individual_digits=True), gpt2_bytes(use_regex=True)],
    "qwen2": lambda: [*isolated(QWEN2), gpt2_bytes()],
    "llama3": lambda: [*isolated(LLAMA3), gpt2_bytes()],
    "cl100k": lambda: [*isolated(LLAMA3), gpt2_bytes()],
    "seed": lambda: [*isolated(SEED), gpt2_bytes()],
    "deepseek-coder": lambda: [
        *isolated(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"),
        pre.Digits(individual_digits=True),
        gpt2_bytes(),
    ],
    "deepseek-v3": lambda: [*isolated(r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3), gpt2_bytes()],
    "qwen35": lambda: [*isolated(QWEN35), gpt2_bytes()],
    "gpt4o": lambda: [*isolated(GPT4O), gpt2_bytes()],
    "letters by fours": lambda: [*isolated(r"\p{L}{1,4}|\p{N}{1,5}|\s+|[^\s\p{L}\p{N}]+"), gpt2_bytes()],
}  # fmt: skip


@cache
def source(at_least: int) -> tuple[str, ...]:
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if sum(map(len, texts)) >= at_least:
            break
        texts.append(path.read_bytes().decode("utf-8", "replace"))
    return tuple(texts)


HOSTILE: Final = (
    "", " ", "\n", "\t", "\r\n", "  ", "a", " a", "a ", "  a", "\n\na", "\r\n\r\na\r\n", "\r", "\r\r\n\n\r",
    *(f"x{blank * n}y{blank * n}" for blank in (" ", "\t", "\n", "\r\n", " \n", "\u3000", "\u00a0")
      for n in (1, 2, 3, 7, 40)),
    "it's IT'S it’s we'll WE'LL y'all'd've 'tis I'M 'Twas o'clock's's 'ſ don't' ''s",
    "1 12 123 1234 12345 1234567890123 3.14 1,000 0x1F 1e-9 v2 a1b22c333 1_000",
    "٠١٢٣٤ १२३४५ ๑๒๓ １２３４ ²³¹ ½⅓ ⅧⅨ ①②③ 1٢3 𝟙𝟚𝟛 ৳১২",
    "é e\u0301 Å A\u030a Å ṩ s\u0323\u0307 s\u0307\u0323 q\u0307\u0323 \u0301x ﬁ 각 \u1100\u1161\u11a8 Ω Ω",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇪🇺🇨🇭 ❤️ 1️⃣ a😀b 😀😀 \U0001f468\u200d\U0001f4bb",
    "функция ПРИВЕТ ёлка Καλημέρα ΚΟΣΜΕ שלום مرحبا हिन्दी क्षत्रिय ไทย 中文函数，返回。日本語カタカナひらがな 한국어",
    "ǅ ß ẞ ª º ʰ ﷽ ㍿ 𝒳 𐍈 𓂀 Ⅷ ⅳ Ꭰ ᏸ İ ı camelCase HTTPServer XMLHttpÉcole",
    "a\u200bb\u200cc\u200dd\ufeffe\u2060f\u00adg\u202eh\u2028i\u2029j\u0085k\u1680l\u2003m",
    "a\x0bb\x0cc\x1cd\x1fe\x07f\x7fg\x00h \ue000 \ufffd \U0010ffff \ufdd0",
    "f(x);\ny();\n\nz:\n{\n}\n\nif(x){y[0]+=~z>>>2;}//!?#@$%^&*()_+-=[]{}|\\;':\",./<>?`~ ==== ---- ///// \"\"\"'''",
    "<s>struck</s> <a><b></a> <|im_end <|endoftext <unk> [PAD] <0x0A> <0xZZ> ▁a ▁▁ a▁b _a",
    "def f(x):\r\n\treturn {'a': [1, 2.5e-3], \"é\": None}  # it's   \r\n\r\n\r\n    \t \n",
    "x" * 300 + "=" * 300 + "9" * 300 + "é" * 300 + "中" * 100,
)  # fmt: skip


@cache
def _bytes_merged() -> str:
    """Train a byte-level BPE with merges across word boundaries, so that a different split gives different ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre.Sequence([*isolated(r"[\s\S]{1,16}"), gpt2_bytes()])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=N_BASE, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*source(60_000), *HOSTILE * 4], trainer)
    return str(tokenizer.to_str())


@cache
def byte_level(cut: str) -> str:
    """Return the text of a tokenizer.json with these merges and a pre-tokenizer of `CUTS`."""
    tokenizer = Tokenizer.from_str(_bytes_merged())
    tokenizer.pre_tokenizer = pre.Sequence(CUTS[cut]())
    return str(tokenizer.to_str())


def save_byte_level(folder: Path, cut: str, **changes: Any) -> dict[str, Any]:
    """Write a tokenizer of `CUTS` and return its JSON; `changes` set keys of the JSON's `model`, or of itself."""
    tokenizer = Tokenizer.from_str(byte_level(cut))
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(
        [AddedToken(EOS, special=True), "<|fim_prefix|>", "<|fim_suffix|>"]
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("    ", "        ", "<think>")])
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    for key, value in changes.items():
        (data["model"] if key in data["model"] or key == "ignore_merges" else data)[key] = value
    save(folder, data)
    return data


def save(folder: Path, data: Mapping[str, Any], **config: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    settings = {"eos_token": EOS, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


@cache
def sentencepiece_bytes(**options: Any) -> bytes:
    """Train a tokenizer.model with Llama's settings: BPE, byte fallback, no normalization."""
    settings = {
        "model_type": "bpe", "vocab_size": 1200, "byte_fallback": True, "split_digits": True,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True, "max_sentence_length": 100_000, "num_threads": 1,
        "character_coverage": 0.999, "minloglevel": 2,
    }  # fmt: skip
    model = BytesIO()
    lines = (line for text in source(150_000) for line in text.splitlines() if line)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, **{**settings, **options}
    )
    return model.getvalue()


def pieces_json(model: bytes) -> dict[str, Any]:
    """Return the tokenizer.json of a SentencePiece BPE as converted by the Hub: every split of a piece is a merge.

    Source: transformers `tokenization_utils_sentencepiece.py`, `generate_merges`.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    n_pieces = processor.get_piece_size()
    vocab = {processor.id_to_piece(i): i for i in range(n_pieces)}
    merges: list[tuple[str, str]] = []
    plain = [i for i in range(n_pieces) if not processor.is_byte(i) and i > 2]
    for i in sorted(plain, key=lambda i: -processor.get_score(i)):
        piece = processor.id_to_piece(i)
        parts = [(piece[:n], piece[n:]) for n in range(1, len(piece))]
        known = [pair for pair in parts if pair[0] in vocab and pair[1] in vocab]
        merges += sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    special = [
        {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True} for i, t in enumerate(("<unk>", "<s>", "</s>"))
    ]  # fmt: skip
    bpe = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "vocab": vocab, "merges": merges,
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": bpe,
    }  # fmt: skip


PREPEND: Final = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ],
}


def metaspace(scheme: str, *, split: bool = False) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def read(folder: Path, n_vocab: int = N_VOCAB, pre_name: str = "gpt-2", **config: Any) -> GgufTokenizer:  # fmt: skip
    return read_tokenizer(folder, pre_name, n_vocab, config)


@contextmanager
def llama_vocab(tokenizer: GgufTokenizer, folder: Path) -> Iterator[Any]:
    path = folder / "vocabulary.gguf"
    write_vocabulary(path, tokenizer.metadata())
    llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model, f"llama.cpp does not load a vocabulary of {tokenizer.pre}"
    try:
        yield llama_cpp.llama_model_get_vocab(model)
    finally:
        llama_cpp.llama_model_free(model)


@contextmanager
def llama_cpp_of(
    tokenizer: GgufTokenizer, folder: Path, *, parse_special: bool = True
) -> Iterator[Callable[[str], list[int]]]:
    """Yield llama.cpp's tokenization function for this tokenizer, with normalization as in our programs."""

    def encode(text: str) -> list[int]:
        if tokenizer.normalizer:
            text = unicodedata.normalize(tokenizer.normalizer, text)  # type: ignore[arg-type]
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 16))()
        n = llama_cpp.llama_tokenize(vocab, data, len(data), ids, len(ids), False, parse_special)
        return list(ids[: max(0, n)])

    with llama_vocab(tokenizer, folder) as vocab:
        yield encode


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _SILENT(level: int, text: bytes, data: Any) -> None:
    """Discard llama.cpp's log. The module keeps the reference that C does not hold."""
