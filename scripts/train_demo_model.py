#!/usr/bin/env python3
"""Train the bundled demo model: a small CodeGen on the Python standard library's source.

    python scripts/train_demo_model.py --out turbopilot/demo_model

The network is GPT-J's (one LayerNorm, attention and MLP in parallel, interleaved rotary), written
here with fused attention because that trains 1.5 times faster on a CPU than transformers' CodeGen. The
exporter fuses q, k and v into CodeGen's `qkv_proj`, loads the result with transformers and compares
logits, so what ships is exactly a `CodeGenForCausalLM`.

Everything is seeded: sample i of step s depends on (seed, s, i) alone, so a run that was stopped and
resumed from `--work` takes the same path as one that was not. The learning rate is constant after the
warm-up and falls to zero over the last quarter of `--steps`.

Needs `turbopilot[verify]` (torch, transformers). About two hours on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import re
import sys
import sysconfig
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

# Modules that the model never sees: prose-heavy, algorithmic, parsing, networking and class-heavy code.
HELD_OUT = (
    "argparse.py", "asyncio/queues.py", "calendar.py", "concurrent/futures/thread.py", "configparser.py",
    "csv.py", "email/message.py", "fractions.py", "heapq.py", "http/cookiejar.py", "json/decoder.py",
    "logging/handlers.py", "shlex.py", "statistics.py", "tarfile.py", "textwrap.py", "zipfile.py",
)  # fmt: skip

# Tables, not code; and `_pydecimal`-like twins of held-out modules do not exist in this list.
EXCLUDED = re.compile(
    r"(^|/)(site-packages|lib2to3/tests/data|idlelib/idle_test|__pycache__|test_lib2to3)(/|$)"
    r"|^encodings/(cp|iso|mac|koi|kz|ptcp|hp|tis)|^pydoc_data/topics|_sysconfigdata|/bad|cjkencodings"
    r"|^test/(encoded_modules|test_tools/fixtures|test_import/data)"
)
# The tests of a held-out module quote its behaviour, so they are held out of the training too.
HELD_OUT_TESTS = re.compile(
    r"^test/(test_asyncio/test_queues|test_json/|test_email/test_message|test_concurrent_futures|test_thread"
    r"|test_(argparse|calendar|configparser|cfgparser|csv|fractions|heapq|http_cookiejar|logging|shlex"
    r"|statistics|tarfile|textwrap|zipfile)\w*(\.py$|/))"
)

N_ROWS = 4096  # embedding rows; a few more than tokens, as in Salesforce's checkpoints
EOS = "<|endoftext|>"
FIM = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
MP_NUM = 4  # CodeGen stores qkv in four blocks of [q | v | k] (transformers, modeling_codegen.py)


@dataclass(frozen=True)
class Geometry:
    """The network's shape. Names as in CodeGen's config.json."""

    n_embd: int = 256
    n_layer: int = 4
    n_head: int = 4
    rotary_dim: int = 32
    n_positions: int = 1024


# ------------------------------------------------------------------------------------------- corpus


@dataclass(frozen=True)
class Corpus:
    """Texts by path relative to the standard library; `train` and `held_out` share no file."""

    train: dict[str, str]
    held_out: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over all paths and texts: names the exact corpus in the model card."""
        h = hashlib.sha256()
        for part in (self.train, self.held_out):
            for name in sorted(part):
                h.update(name.encode() + b"\0" + part[name].encode() + b"\0")
        return h.hexdigest()


def read_corpus(root: Path) -> Corpus:
    """Read every .py file of the standard library below `root` that is valid UTF-8."""
    train: dict[str, str] = {}
    held_out: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if EXCLUDED.search(name) or HELD_OUT_TESTS.search(name):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if len(text) < 200:
            continue
        (held_out if name in HELD_OUT else train)[name] = text
    missing = set(HELD_OUT) - set(held_out)
    if missing:
        raise SystemExit(
            f"{root} lacks held-out modules: {sorted(missing)}; is it a Python 3.11 standard library?"
        )
    return Corpus(train, held_out)


# ---------------------------------------------------------------------------------------- tokenizer


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """Byte-level BPE in CodeGen's layout: base vocabulary, <|endoftext|>, runs of 31..2 spaces, 9..2 tabs, FIM."""
    runs = [" " * n for n in range(31, 1, -1)] + ["\t" * n for n in range(9, 1, -1)]
    base = (
        N_ROWS - 32 - len(runs) - len(FIM)
    )  # 32 rows stay unused, as rows above 50294 do in CodeGen
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=base - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Runs of blanks are cut out by added tokens before BPE sees the text, so they are cut here too.
    pieces = (p for text in corpus.train.values() for p in re.split(r" {2,}|\t{2,}", text) if p)
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.add_special_tokens([AddedToken(EOS, special=True, normalized=True)])
    tokenizer.add_tokens([AddedToken(run, special=False, normalized=True) for run in runs])
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in FIM]
    )
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must exist."""
    found = tokenizer.token_to_id(token)
    assert found is not None, token
    return int(found)


# -------------------------------------------------------------------------------------------- model


class Block(nn.Module):
    """GPT-J's block: x + attn(ln(x)) + mlp(ln(x))."""

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        d = g.n_embd
        self.g = g
        self.ln_1 = nn.LayerNorm(d)
        self.q_proj = nn.Linear(d, d, bias=False)
        self.k_proj = nn.Linear(d, d, bias=False)
        self.v_proj = nn.Linear(d, d, bias=False)
        self.out_proj = nn.Linear(d, d, bias=False)
        self.fc_in = nn.Linear(d, 4 * d)
        self.fc_out = nn.Linear(4 * d, d)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, d = x.shape
        y = self.ln_1(x)
        q, k, v = (
            p(y).view(b, t, self.g.n_head, -1).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        attn = F.scaled_dot_product_attention(
            rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True
        )
        mlp = self.fc_out(F.gelu(self.fc_in(y), approximate="tanh"))
        out: Tensor = x + self.out_proj(attn.transpose(1, 2).reshape(b, t, d)) + mlp
        return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate interleaved pairs of the first R dimensions. x: (B, H, T, d); cos, sin: (T, R/2)."""
    r = 2 * cos.shape[-1]
    even, odd = x[..., 0:r:2], x[..., 1:r:2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned, x[..., r:]), dim=-1)


class DemoModel(nn.Module):
    """ids (B, T) → hidden states; `loss` adds the head."""

    def __init__(self, g: Geometry) -> None:
        super().__init__()
        self.g = g
        self.wte = nn.Embedding(N_ROWS, g.n_embd)
        self.h = nn.ModuleList(Block(g) for _ in range(g.n_layer))
        self.ln_f = nn.LayerNorm(g.n_embd)
        self.lm_head = nn.Linear(g.n_embd, N_ROWS)
        inv_freq = 10000.0 ** (-torch.arange(0, g.rotary_dim, 2).float() / g.rotary_dim)
        angles = torch.arange(g.n_positions).float()[:, None] * inv_freq
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)
            if name.endswith(("out_proj.weight", "fc_out.weight", "lm_head.weight")):
                nn.init.zeros_(p)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]  # type: ignore[index]
        x = self.wte(ids)
        for block in self.h:
            x = block(x, cos, sin)
        out: Tensor = self.lm_head(self.ln_f(x))
        return out


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz steps (K. Jordan, 2024), in FP32.

    torch.optim.Muon does the steps in BF16, which CPUs without BF16 arithmetic emulate at a tenth of the speed.
    """

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                buf = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buf.lerp_(p.grad, 1 - group["momentum"])
                x = p.grad.lerp(buf, group["momentum"])
                wide = x.shape[0] <= x.shape[1]
                x = (x if wide else x.T) / (x.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * 0.01).add_(x if wide else x.T, alpha=-group["lr"] * scale)


# ------------------------------------------------------------------------------------------ samples


class Samples:
    """Seeded samples of n+1 ids: half plain windows of the corpus, half rearranged for fill-in-the-middle."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.eos, *self.fim = (token_id(tokenizer, t) for t in (EOS, *FIM))
        # Library code counts twice: it is what people write; the test suite is three fifths of the bytes.
        self.texts = [
            t for n, t in corpus.train.items() for _ in range(1 if n.startswith("test/") else 2)
        ]
        sizes = np.array([len(t) for t in self.texts], dtype=np.float64)
        self.share = sizes / sizes.sum()
        order = np.random.default_rng(seed).permutation(len(self.texts))
        ids: list[int] = []
        for text, code in zip(
            order, tokenizer.encode_batch([self.texts[i] for i in order]), strict=True
        ):
            del text
            ids.append(self.eos)
            ids.extend(code.ids)
        self.stream = np.array(ids, dtype=np.int64)

    def batch(self, step: int, rows: int, n: int) -> Tensor:
        """(rows, n + 1) ids, a function of (seed, step) alone."""
        rng = np.random.default_rng((self.seed, step))
        return torch.from_numpy(
            np.stack([self._fim(rng, n) if i % 2 else self._plain(rng, n) for i in range(rows)])
        )

    def _plain(self, rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
        start = int(rng.integers(0, len(self.stream) - n - 1))
        return self.stream[start : start + n + 1]

    def _fim(self, rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
        """prefix–suffix–middle, cut at characters: most middles are short, as they are in an editor."""
        out: list[int] = []
        while len(out) <= n:
            text = self.texts[int(rng.choice(len(self.texts), p=self.share))]
            span = int(rng.integers(300, 3 * n))
            start = int(rng.integers(0, max(1, len(text) - span)))
            start = text.rfind("\n", 0, start) + 1
            piece = text[start : start + span]
            length = int(
                min(len(piece), np.exp(rng.uniform(np.log(4), np.log(max(5, len(piece) // 2)))))
            )
            cut = int(rng.integers(0, len(piece) - length + 1))
            if rng.random() < 0.5:  # end the middle where a line ends, as suggestions do
                end = piece.find("\n", cut + length)
                length = (end if end > 0 else len(piece)) - cut
            prefix, middle, suffix = piece[:cut], piece[cut : cut + length], piece[cut + length :]
            p, s, m = (e.ids for e in self.tokenizer.encode_batch([prefix, suffix, middle]))
            pre, suf, mid = self.fim
            out += [pre, *p, suf, *s, mid, *m, self.eos]
        return np.array(out[: n + 1], dtype=np.int64)


# --------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def model_bits_per_byte(
    model: DemoModel, tokenizer: Tokenizer, texts: dict[str, str], stride: int = 512
) -> float:
    """Held-out loss with at least 512 tokens of context where the file has them, in bits per UTF-8 byte."""
    model.eval()
    n = model.g.n_positions
    eos = token_id(tokenizer, EOS)
    nats, size = 0.0, 0
    for text in texts.values():
        ids = torch.tensor([eos, *tokenizer.encode(text).ids])
        size += len(text.encode())
        done = 1
        for start in range(0, max(1, len(ids) - 1), stride):
            window = ids[start : start + n]
            first = done - start  # the first position of this window that is not counted yet
            if first >= len(window):
                break
            logits = model(window[None, :-1])[0]
            nats += float(F.cross_entropy(logits[first - 1 :], window[first:], reduction="sum"))
            done = start + len(window)
    model.train()
    return nats / math.log(2) / size


def ngram_bits_per_byte(train: bytes, test: bytes, order: int = 5) -> float:
    """An interpolated Witten-Bell byte model of the given order, trained on the same text. Bits per byte."""
    a = np.frombuffer(train, dtype=np.uint8).astype(np.int64)
    b = np.frombuffer(test, dtype=np.uint8).astype(np.int64)
    prob = np.full(len(b), 1 / 256)

    def contexts(x: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
        """The k bytes before each position, packed into one integer; zeros before the beginning."""
        packed = np.zeros(len(x), dtype=np.int64)
        for i in range(1, k + 1):
            packed[i:] += x[: len(x) - i] << (8 * (i - 1))
        return packed

    def count(
        keys: npt.NDArray[np.int64], n: npt.NDArray[np.int64], at: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        i = np.minimum(np.searchsorted(keys, at), len(keys) - 1)
        return np.where(keys[i] == at, n[i], 0)

    for k in range(order):
        ca, cb = contexts(a, k), contexts(b, k)
        grams, gram_n = np.unique((ca << 8) | a, return_counts=True)
        ctx, ctx_n = np.unique(ca, return_counts=True)
        kinds, kinds_n = np.unique(grams >> 8, return_counts=True)
        seen, distinct = count(ctx, ctx_n, cb), count(kinds, kinds_n, cb)
        hits = count(grams, gram_n, (cb << 8) | b)
        prob = np.where(seen > 0, (hits + distinct * prob) / np.maximum(seen + distinct, 1), prob)
    return float(-np.log2(prob).mean())


def gzip_bits_per_byte(texts: dict[str, str]) -> float:
    """Zlib level 9 (gzip's method) over all held-out files in one stream, which favours it. Bits per byte."""
    data = "".join(texts.values()).encode()
    return 8 * len(zlib.compress(data, 9)) / len(data)


# ------------------------------------------------------------------------------------------- export


def fuse_qkv(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v: (D, D) each → CodeGen's (3·D, D): four blocks of rows [q | v | k]."""
    return torch.cat(
        [part for trio in zip(*(t.chunk(MP_NUM) for t in (q, v, k)), strict=True) for part in trio]
    )


def export(model: DemoModel, tokenizer: Tokenizer, out: Path) -> None:
    """Write a Hugging Face CodeGen checkpoint in F16 and check that transformers' logits are ours."""
    from transformers import AutoModelForCausalLM, CodeGenConfig, CodeGenForCausalLM

    g = model.g
    eos = token_id(tokenizer, EOS)
    config = CodeGenConfig(
        vocab_size=N_ROWS, n_positions=g.n_positions, n_ctx=g.n_positions, n_embd=g.n_embd, n_layer=g.n_layer,
        n_head=g.n_head, rotary_dim=g.rotary_dim, bos_token_id=eos, eos_token_id=eos, n_inner=None,
        architectures=["CodeGenForCausalLM"], tokenizer_class="GPT2TokenizerFast", dtype="float16",
    )  # fmt: skip
    state: dict[str, Tensor] = {
        "transformer.wte.weight": model.wte.weight,
        "transformer.ln_f.weight": model.ln_f.weight,
        "transformer.ln_f.bias": model.ln_f.bias,
        "lm_head.weight": model.lm_head.weight,
        "lm_head.bias": model.lm_head.bias,
    }
    for i, block in enumerate(model.h):
        assert isinstance(block, Block)
        at = f"transformer.h.{i}."
        state[at + "attn.qkv_proj.weight"] = fuse_qkv(
            block.q_proj.weight, block.k_proj.weight, block.v_proj.weight
        )
        state[at + "attn.out_proj.weight"] = block.out_proj.weight
        for name in ("ln_1", "fc_in", "fc_out"):
            module = getattr(block, name)
            prefix = at + ("mlp." if name.startswith("fc") else "") + name
            state[prefix + ".weight"], state[prefix + ".bias"] = module.weight, module.bias
    state = {k: v.detach().to(torch.float16).contiguous() for k, v in state.items()}

    codegen = CodeGenForCausalLM(config).to(torch.float16)
    missing, unexpected = codegen.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise SystemExit(f"export: missing {missing}, unexpected {unexpected}")
    out.mkdir(parents=True, exist_ok=True)
    codegen.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    # CodeGen's own tokenizer class, for the files that Salesforce ships beside tokenizer.json
    names = {"bos_token": EOS, "eos_token": EOS, "unk_token": EOS}
    settings = {
        **names,
        "add_prefix_space": False,
        "model_max_length": g.n_positions,
        "tokenizer_class": "CodeGenTokenizer",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (out / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")

    reloaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ids = torch.randint(0, N_ROWS, (1, 200), generator=torch.Generator().manual_seed(1))
    halved = DemoModel(g)
    halved.load_state_dict({k: v.to(torch.float16).float() for k, v in model.state_dict().items()})
    with torch.no_grad():
        gap = float((reloaded(ids).logits - halved(ids)).abs().max())
    if gap > 1e-3:
        raise SystemExit(f"export: transformers' logits differ from the trained network's by {gap}")
    print(
        f"exported {sum(p.numel() for p in model.parameters()):,} weights to {out}; max |Δlogit| {gap:.1e}"
    )


# ----------------------------------------------------------------------------------------- training


def learning_rate(step: int, steps: int) -> float:
    """Warm-up over 200 steps, constant, then linear to zero over the last quarter."""
    return min(1.0, (step + 1) / 200, (steps - step) / (0.25 * steps))


def batches(samples: Samples, steps: int, start: int, tokens: int) -> Iterator[tuple[int, Tensor]]:
    """512 tokens a row, then the full 1024 in the falling quarter, where positions beyond 512 are learned."""
    for step in range(start, steps):
        n = 512 if step < 0.75 * steps else 1024
        yield step, samples.batch(step, tokens // n, n)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("turbopilot/demo_model"), help="where the checkpoint goes"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/demo_model"),
        help="resumable state, log and tokenizer",
    )
    parser.add_argument(
        "--stdlib",
        type=Path,
        default=Path(sysconfig.get_paths()["stdlib"]),
        help="source to learn from",
    )
    parser.add_argument("--steps", type=int, default=4000, help="optimizer steps in all")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens a step")
    parser.add_argument("--seed", type=int, default=20230813)
    parser.add_argument("--layers", type=int, default=Geometry.n_layer)
    parser.add_argument(
        "--export-only", action="store_true", help="evaluate and export the state in --work"
    )
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="leave after so many minutes; resumable"
    )
    args = parser.parse_args()

    args.work.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus(args.stdlib)
    sizes = [
        sum(len(t.encode()) for t in part.values()) for part in (corpus.train, corpus.held_out)
    ]
    print(
        f"corpus {corpus.digest[:16]}: {len(corpus.train)} files, {sizes[0]:,} bytes; held out {sizes[1]:,} bytes"
    )
    tokenizer_file = args.work / "tokenizer.json"
    if not tokenizer_file.exists():
        train_tokenizer(corpus).save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))

    torch.manual_seed(args.seed)
    model = DemoModel(Geometry(n_layer=args.layers))
    matrices = [p for p in model.h.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=0.02),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.97), weight_decay=0.0),
    ]
    base_rates = [o.param_groups[0]["lr"] for o in optimizers]

    state_file = args.work / "state.pt"
    start, spent = 0, 0.0
    if state_file.exists():
        saved = torch.load(state_file, weights_only=True)
        model.load_state_dict(saved["model"])
        for o, s in zip(optimizers, saved["optimizers"], strict=True):
            o.load_state_dict(s)
        start, spent = saved["step"], saved["seconds"]
        print(f"resumed at step {start} after {spent / 60:.0f} minutes")

    def save(step: int) -> None:
        whole = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
        torch.save({**whole, "step": step, "seconds": spent}, state_file.with_suffix(".part"))
        state_file.with_suffix(".part").replace(state_file)

    if not args.export_only:
        samples = Samples(corpus, tokenizer, args.seed)
        print(
            f"{len(samples.stream):,} tokens, {sum(map(len, samples.texts)) / len(samples.stream):.2f} characters each"
        )
        began = last = time.monotonic()
        running = 0.0
        for step, batch in batches(samples, args.steps, start, args.tokens):
            for o, base in zip(optimizers, base_rates, strict=True):
                o.param_groups[0]["lr"] = base * learning_rate(step, args.steps)
                o.zero_grad(set_to_none=True)
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()  # type: ignore[no-untyped-call]
            for o in optimizers:
                o.step()
            running = loss.item() if not running else 0.98 * running + 0.02 * loss.item()
            now = time.monotonic()
            spent += now - last
            last = now
            if step % 50 == 0 or step + 1 == args.steps:
                rate = args.tokens * (step + 1 - start) / max(1e-9, now - began)
                print(
                    f"step {step:5d}  loss {running:.4f}  {rate:,.0f} tokens/s  {spent / 60:.1f} min",
                    flush=True,
                )
            if (step + 1) % 100 == 0 or step + 1 == args.steps:
                save(step + 1)
            if (step + 1) % 500 == 0:
                bits = model_bits_per_byte(model, tokenizer, corpus.held_out)
                print(f"step {step:5d}  held-out {bits:.4f} bits per byte", flush=True)
                last = time.monotonic()  # evaluation is not training time
            if now - began > 60 * args.stop_after:
                save(step + 1)
                sys.exit(0)

    held_out = "".join(corpus.held_out.values()).encode()
    figures = {
        "model": model_bits_per_byte(model, tokenizer, corpus.held_out),
        "5-gram byte model": ngram_bits_per_byte("".join(corpus.train.values()).encode(), held_out),
        "gzip -9": gzip_bits_per_byte(corpus.held_out),
    }
    facts = {
        "bits_per_byte": figures, "held_out": list(HELD_OUT), "held_out_bytes": len(held_out),
        "train_bytes": sizes[0], "corpus_sha256": corpus.digest, "python": platform.python_version(),
        "steps": args.steps, "tokens_per_step": args.tokens, "seed": args.seed, "minutes": round(spent / 60, 1),
        "geometry": asdict(model.g),
    }  # fmt: skip
    (args.work / "figures.json").write_text(json.dumps(facts, indent=2) + "\n")
    for name, bits in figures.items():
        print(f"{name:20s} {bits:.3f} bits per byte")
    export(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
