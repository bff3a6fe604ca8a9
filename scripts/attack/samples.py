"""Small honest files, which the attacks change or write again."""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from bench.client import HOST

from attack.processes import Ended, ForkServer, Limits

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = "def area(width, height):\n    return width * height\n\n\nclass Box:\n    pass\n" * 12
_LIMITS = Limits(cpu=120, wall=600)


@dataclass(frozen=True, slots=True)
class Samples:
    """Honest files, all made in one folder.

    Attributes:
        modern: checkpoint of Qwen2 in safetensors, with a chat template and fill-in-the-middle.
        older: checkpoint of GPT-J in PyTorch's format.
        gguf: `modern` in F16.
        gguf_q8: `modern` in Q8_0.
        old_bin: `older` as an old ggml file.
        imatrix: of `gguf`.
        adapter: LoRA adapter of `gguf`.
        prefix: file of the prefix cache of `gguf`; None if none was asked for.
        text: a few lines of code.
    """

    modern: Path
    older: Path
    gguf: Path
    gguf_q8: Path
    old_bin: Path
    imatrix: Path
    adapter: Path
    prefix: Path | None
    text: Path


def _checkpoints(folder: Path) -> tuple[Path, Path, Path]:
    import torch
    from safetensors.torch import load_file
    from transformers.utils.logging import disable_progress_bar

    from tests.support.old_ggml import old_gptj
    from tests.support.tiny import tiny_checkpoint

    disable_progress_bar()
    modern = tiny_checkpoint(
        "qwen2", folder / "modern", dtype="f16", hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=128,
    )  # fmt: skip
    settings = modern / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": CHAT}))
    older = tiny_checkpoint("gptj", folder / "older", n_embd=64, n_layer=2, n_head=4)
    old_bin = old_gptj(older, folder / "old-f16.bin", "F16")
    torch.save(load_file(older / "model.safetensors"), older / "pytorch_model.bin")
    (older / "model.safetensors").unlink()
    return modern, older, old_bin


def make_samples(folder: Path, server: ForkServer, *, prefix: bool = True) -> Samples:
    """Make all samples with the product itself.

    Raises:
        RuntimeError: it fails on an honest file.
    """
    modern, older, old_bin = _checkpoints(folder)
    from tests.support.peft_adapter import MODULES as ADAPTED
    from tests.support.peft_adapter import write_adapter

    gguf, q8, matrix, adapter = (
        folder / f"model-{name}.gguf" for name in ("f16", "q8_0", "imatrix", "lora")
    )
    first = tuple(m for m in ADAPTED["qwen2"] if ".2." not in m)  # it has two layers
    peft = write_adapter(modern, folder / "peft", first)
    text = folder / "code.txt"
    text.write_text(TEXT)
    for arguments in (
        ("convert", modern, "-o", gguf),
        ("quantize", gguf, "Q8_0", "-o", q8),
        ("imatrix", gguf, "-o", matrix, "--text", text, "--ctx", "32", "--chunks", "4", "--threads", "1"),
        ("convert", peft, "--base", modern, "-o", adapter),
    ):  # fmt: skip
        server.begin([str(a) for a in arguments], folder, _LIMITS)
        _must(server.finish(), str(arguments[0]))
    kept = folder / "prefixes"
    if prefix:
        with_prefix(server, gguf, folder, kept)
    files = sorted(kept.glob("*.prefix")) if kept.is_dir() else []
    found = files[0] if files else None
    return Samples(modern, older, gguf, q8, old_bin, matrix, adapter, found, text)


def _must(ended: Ended, what: str) -> None:
    if ended.code:
        raise RuntimeError(f"{what} of an honest file ended with {ended.code}:\n{ended.output}")


def serve_arguments(model: Path, *more: str) -> list[str]:
    """Return a small server's arguments."""
    settings = (
        "--port",
        "0",
        "--ctx",
        "256",
        "--parallel",
        "1",
        "--threads",
        "1",
        "--max-queue",
        "2",
        "--grace",
        "5",
    )
    return ["serve", str(model), *settings, *more]


def port_of(server: ForkServer, seconds: float) -> int:
    """Return the port of a starting `serve` when it is ready; 0 if it ended, or is not ready in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not server.ended(0.03):
        said = server.output()
        if f"http://{HOST}:" in said and "\ntry" in said:
            return int(said.split(f"http://{HOST}:")[1].split()[0])
    return 0


def with_prefix(server: ForkServer, model: Path, folder: Path, kept: Path) -> None:
    """Serve one completion so that its prompt is kept in a file."""
    import http.client

    options = serve_arguments(model, "--prefix-cache", "8MiB", "--prefix-cache-dir", str(kept))
    server.begin(options, folder, _LIMITS)
    if port := port_of(server, 120):
        for prompt in (TEXT[:400], "x" * 100):
            connection = http.client.HTTPConnection(HOST, port, timeout=60)
            connection.request(
                "POST", "/v1/completions", json.dumps({"prompt": prompt, "max_tokens": 1})
            )
            connection.getresponse().read()
            connection.close()
        server.signal(signal.SIGTERM)
    _must(server.finish(), "serve")


def linked(source: Path, target: Path, without: str = "") -> Path:
    """Copy a checkpoint's folder by hard links, without one of its files."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.name != without:
            try:
                (target / file.name).hardlink_to(file)
            except OSError:
                shutil.copyfile(file, target / file.name)
    return target
