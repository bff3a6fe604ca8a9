"""Texts that both models read: code samples, and a battery of texts for the tokenizers.

The battery is about 200 KB of code and of inputs that are hard to tokenize; both tokenizers must return the same ids
for all of it. Texts that an editor or a Git checkout could change (line endings, control characters, trailing spaces)
are generated here and are always the same.
"""

from __future__ import annotations

import random
import string
import unicodedata
from importlib import resources
from pathlib import Path

from turbopilot.base.errors import InvalidInput

# CodeGen has tokens of up to 31 spaces and of up to 9 tabs: test longer runs too.
_SPACES = range(1, 41)
_TABS = range(1, 13)

_PRINTABLE = string.ascii_letters[:4] + "AZ09" + string.punctuation + " \t\n"

_SCRIPTS = (
    "Crème brûlée, naïve façade, Ångström, ĳsvrij, ſtraße, ẞ, ǅ, ﬁn",
    "cafe\u0301 vs caf\u00e9; n\u0303 ñ; a\u0308\u0323 ạ̈; q\u0307\u0323",
    "Ελληνικά: η μέρα άρχισε",
    "Русский текст, ёжик и ЩУКА",
    "Українська ґанок їжак",
    "Հայերեն այբուբեն",
    "ქართული ენა",
    "日本語のコメント：関数は値を返す。カタカナ ﾊﾝｶｸ",
    "中文註釋與简体注释，全形１２３ＡＢＣ",
    "한국어 주석 각 각",
    "ไทยไม่มีช่องว่าง",
    "हिन्दी में क्षत्रिय और ज्ञान",
    "বাংলা অক্ষর",
    "தமிழ் எழுத்து",
    "العربية من اليمين إلى اليسار ١٢٣",
    "עברית שָׁלוֹם",
    "فارسی نیم‌فاصله می‌شود",
    "አማርኛ",
    "ᚠᚢᚦᚨᚱᚲ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒳 𝟘𝟙𝟚 𐍈 𓂀 🜁",
    "😀😃 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇪🇺🇨🇭 ❤️ ☠ 1️⃣ #️⃣",
    "→ ⇒ ∀x∈ℝ: ⌈x⌉ ≥ x ∧ ¬∃y ≠ √2 ± ∞ ½ ⅔ x² H₂O",
    "“quotes” ‘single’ «guillemets» — – ‑ … † ‡ • ‰ €¥£¢₿",
    "zero\u200bwidth\u200cjoin\u200der\ufeffbom\u2060word",
    "nbsp\u00a0thin\u2009ideographic\u3000line\u2028para\u2029nel\u0085end",
    "\u202eright to left override\u202c \u2066isolate\u2069",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘",
    "private \ue000\uf8ff use, last \U0010ffff, replacement \ufffd, noncharacter \ufdd0",
)

_NUMBERS = (
    "0 1 12 123 1234 12345 123456 1234567 12345678901234567890 007 0x1F 0b1011 0o755 1_000_000 3.14159 .5 5. 1e10 "
    "1.5E-7 -0.0 +42 1/2 50% $9.99 192.168.0.1 v1.2.3-rc.4 2024-02-29T12:34:56.789Z 10:30 "
    "1,234,567.89 ²³¹ ½⅓ Ⅷ ٠١٢ १२३ ①②"
)
_CONTRACTIONS = (
    "I'm you're he's she'd we'll they've don't can't it's o'clock 'tis 'twas rock'n'roll I'M YOU'RE HE'S SHE'D WE'LL "
    "THEY'VE DON'T i’m you’re 's 't 're 've 'm 'll 'd x's'x 'sat 'random 'double 'minus '' ''' ' s"
)
_SPECIAL = (
    "<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>", " <|endoftext|> ", "\n<|endoftext|>\n",
    "<|endoftext|", "<|endoftext>", "<|ENDOFTEXT|>", "<<|endoftext|>>", "    <|endoftext|>\t\t",
    "<|extratoken_1|>", "x<|extratoken_10|>y", "<|extratoken_143|>",
    "<fim_prefix>def f(<fim_suffix>)<fim_middle>x", "<fim_prefix", "<|im_start|>user", "</s><s>[INST]",
    "<pad><unk><mask>",
)  # fmt: skip


def code_samples() -> dict[str, str]:
    """Return name → text of the files in `battery/`, sorted by name."""
    folder = resources.files("turbopilot.verify").joinpath("battery")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".txt")), key=lambda f: f.name)
    # read_text() would hide the CRLF line endings of a Windows checkout.
    return {f.name.removesuffix(".txt"): f.read_bytes().decode("utf-8") for f in files}


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file, separated by lines of `%%`; raise InvalidInput if there are none."""
    blocks: list[list[str]] = [[]]
    for line in read_text(path).split("\n"):
        if line.strip() == "%%":
            blocks.append([])
        else:
            blocks[-1].append(line)
    prompts = [text for text in ("\n".join(lines) for lines in blocks) if text.strip()]
    if not prompts:
        raise InvalidInput(
            f"{path}: contains no prompt",
            hint="write one prompt, or several separated by a line of %%",
        )
    return prompts


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file with its line endings unchanged; raise InvalidInput if it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as e:
        raise InvalidInput(f"{path}: cannot be read: {e.strerror}", hint="check the path") from e
    except UnicodeDecodeError as e:
        raise InvalidInput(
            f"{path}: is not UTF-8 (byte {e.start:,})", hint="save it as UTF-8"
        ) from e


def token_battery() -> dict[str, str]:
    """Return name → text of all texts that both tokenizers must tokenize equally."""
    samples = code_samples()
    texts = dict(samples)
    for name in ("python_cache", "c_ring", "config_files"):
        texts[f"{name}, CRLF"] = samples[name].replace("\n", "\r\n")
    texts["python_graph, CR"] = samples["python_graph"].replace("\n", "\r")
    texts["go_server, 2 spaces"] = samples["go_server"].replace("\t", "  ")
    texts["python_cache, tabs"] = samples["python_cache"].replace("    ", "\t")
    texts["prose, trailing spaces"] = "\n".join(
        line + " " * (i % 7) for i, line in enumerate(samples["prose"].split("\n"))
    )
    texts |= {f"{n} spaces": _whitespace(" " * n) for n in _SPACES}
    texts |= {f"{n} tabs": _whitespace("\t" * n) for n in _TABS}
    texts |= {f"{n} empty lines": _empty_lines(n) for n in (1, 2, 3, 4, 7, 16, 33)}
    texts["mixed indentation"] = "".join(
        f"{' ' * (i % 5)}{chr(9) * (i % 3)}{' ' * (i % 11)}if x{i}:\n{chr(9) * (i % 4)}{' ' * i}pass\n"
        for i in range(40)
    )
    texts["no text at all"] = ""
    texts["single characters"] = "\n".join(chr(c) for c in range(0x20, 0x250))
    texts |= {
        f"script {i}": f"{text}\n# {text}{text}\n  '{text}' " for i, text in enumerate(_SCRIPTS)
    }
    texts["all scripts"] = " ".join(_SCRIPTS)
    texts["numbers"] = _NUMBERS
    texts["contractions"] = _CONTRACTIONS
    texts |= {f"special {i}": text for i, text in enumerate(_SPECIAL)}
    texts["all special"] = "".join(_SPECIAL)
    texts["control characters"] = "".join(
        f"{chr(c)}a{chr(c)}{chr(c)} " for c in (*range(0x20), *range(0x7F, 0xA1))
    )
    texts["long word"] = "supercalifragilistic" * 60
    texts["one letter"] = "a" * 1500
    texts["long identifier"] = "_".join(f"get{i}HTTPResponse" for i in range(80))
    texts["punctuation"] = "!@#$%^&*()_+-=[]{}|;':\",./<>?`~ " * 8 + "".join(
        f"{c * 3}{c} " for c in "!#=-*/._~<>|&^%$@"
    )
    texts["hexadecimal"] = "".join(f"{i * 2654435761 % 2**32:08x}" for i in range(200))
    texts["pairs of ASCII"] = "".join(f"{a}{b}{a} " for a in _PRINTABLE for b in _PRINTABLE)
    texts |= {f"all of Unicode, {name}": text for name, text in _unicode_sweep().items()}
    texts["samples, capitals"] = "\n".join(samples.values()).upper()
    texts["samples, words in disorder"] = _shuffled(" ".join(samples.values()))
    texts["samples, no spaces"] = "".join("".join(samples.values()).split())
    return texts


def _empty_lines(n: int) -> str:
    return "a" + "\n" * n + "b" + "\r\n" * n + "c" + " \n" * n + "d" + "\n " * n


def _whitespace(run: str) -> str:
    """Return code with a run of whitespace at every place where tokenizers may differ."""
    code = f"{run}return x{run}# y{run}\n{run}\n{run}é{run}1{run}'s{run}"
    return f"{code}\nx={run};\r\n{run}<|endoftext|>{run}"


def _unicode_sweep() -> dict[str, str]:
    """Return texts of every twelfth assigned character of Unicode's first two planes: among letters, and in a row."""
    kept = [
        char
        for code in range(0x250, 0x20000, 12)
        if unicodedata.category(char := chr(code)) not in ("Cn", "Cs", "Co")
    ]
    return {"apart": " ".join(f"a{c} {c}1" for c in kept[::3]), "in a row": "".join(kept)}


def _shuffled(text: str) -> str:
    """Return the text with its words in a random order that is always the same."""
    words = text.split(" ")
    random.Random(0).shuffle(words)
    return " ".join(words)
