"""What the two models are given to read: the token battery and the prompts. Knows nothing of models.

Plain code samples are the files of `battery/`; texts that an editor or a checkout could change (line
ends, control characters, trailing spaces) are made here. All of it was written for this purpose.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from turbopilot.errors import InvalidInput

# CodeGen's own tokens reach 31 spaces and 9 tabs: go past both.
_SPACES = range(1, 41)
_TABS = range(1, 13)

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
    "<|endoftext|>",
    "a<|endoftext|>b",
    "<|endoftext|><|endoftext|>",
    " <|endoftext|> ",
    "\n<|endoftext|>\n",
    "<|endoftext|",
    "<|endoftext>",
    "<|ENDOFTEXT|>",
    "<<|endoftext|>>",
    "    <|endoftext|>\t\t",
    "<|extratoken_1|>",
    "x<|extratoken_10|>y",
    "<|extratoken_143|>",
    "<fim_prefix>def f(<fim_suffix>)<fim_middle>x",
    "<fim_prefix",
    "<|im_start|>user",
    "</s><s>[INST]",
    "<pad><unk><mask>",
)


def code_samples() -> dict[str, str]:
    """Name → text of the files in `battery/`, in order of their names."""
    folder = resources.files("turbopilot.verify").joinpath("battery")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".txt")), key=lambda f: f.name)
    # Bytes, not read_text: text mode would turn a checkout's CRLF into LF, and hide that it had any.
    return {f.name.removesuffix(".txt"): f.read_bytes().decode("utf-8") for f in files}


def token_battery() -> dict[str, str]:
    """Name → text of everything that both tokenizers must cut alike."""
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
        " " * (i % 5)
        + "\t" * (i % 3)
        + " " * (i % 11)
        + f"if x{i}:\n"
        + "\t" * (i % 4)
        + " " * i
        + "pass\n"
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
    return texts


def _empty_lines(n: int) -> str:
    return "a" + "\n" * n + "b" + "\r\n" * n + "c" + " \n" * n + "d" + "\n " * n


def _whitespace(run: str) -> str:
    """A run of whitespace in every place where a tokenizer may cut it differently."""
    return (
        f"{run}return x{run}# y{run}\n{run}\n{run}é{run}1{run}'s{run}"
        + "\n"
        + f"x={run};\r\n{run}<|endoftext|>{run}"
    )


def default_prompts() -> list[str]:
    """The prompts whose every position is compared; the last one is long enough to fill 1024 tokens."""
    samples = code_samples()
    names = (
        "python_cache",
        "python_graph",
        "c_ring",
        "javascript_events",
        "rust_lexer",
        "sql_report",
        "prose",
    )
    short = [samples[name][:1100] for name in names]
    fim = (
        "<fim_prefix>"
        + samples["python_cache"][:600]
        + "<fim_suffix>"
        + samples["python_cache"][800:1100]
        + "<fim_middle>"
    )
    python = [samples[name] for name in names[:2]]
    return [*short, fim, "\n\n".join([*python, *samples.values()])]


def read_prompts(path: Path) -> list[str]:
    """Prompts of a user's file, parted by lines that hold `%%` alone; without such a line it is one prompt.

    Raises:
        InvalidInput: the file is absent, is not UTF-8, or holds no text.
    """
    blocks: list[list[str]] = [[]]
    for line in read_text(path).split("\n"):
        if line.strip() == "%%":
            blocks.append([])
        else:
            blocks[-1].append(line)
    prompts = [text for text in ("\n".join(lines) for lines in blocks) if text.strip()]
    if not prompts:
        raise InvalidInput(
            f"{path}: holds no prompt",
            hint="write one prompt, or several with a line of %% between",
        )
    return prompts


def read_text(path: Path) -> str:
    """A user's UTF-8 text, line ends kept as they are.

    Raises:
        InvalidInput: the file is absent or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as e:
        raise InvalidInput(f"{path}: cannot be read: {e.strerror}", hint="check the path") from e
    except UnicodeDecodeError as e:
        raise InvalidInput(
            f"{path}: is not UTF-8 (byte {e.start:,})", hint="save it as UTF-8"
        ) from e
