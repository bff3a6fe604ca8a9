#!/usr/bin/env python3
"""Compare `turbopilot convert` with llama.cpp's convert_hf_to_gguf.py and with cp on the same checkpoint.

    python scripts/bench_convert.py                    # 2.3 GB, four shards; needs 7 GB of disk
    python scripts/bench_convert.py --llama-cpp ~/llama.cpp --rounds 5
    python scripts/bench_convert.py --model small      # a trial run of seconds

The checkpoint has random F16 weights and the geometry of gpt_bigcode-santacoder (24 layers, 2048 wide). Wall time and
peak memory are those that the kernel reports for each process. Each round runs the three commands one after the other;
the result is the median of the rounds. llama.cpp's converter is part of llama-cpp-python's source distribution, which
is downloaded with pip unless --llama-cpp names a checkout. If the download fails, llama.cpp's converter is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from bench.measured import Run, measure, medians, warm
from bench.random_checkpoint import Shape, write_weights

from turbopilot.app.resolve import demo_checkpoint

GEOMETRY = {"santacoder": (2048, 24, 16, 49280, 2048), "small": (512, 6, 8, 49280, 2048)}
N_SHARDS = 4


def shapes(n_embd: int, n_layer: int, n_head: int, n_vocab: int, n_ctx: int) -> dict[str, Shape]:
    """Return the names and shapes of GPTBigCode's tensors with multi-query attention."""
    d, kv = n_embd, 2 * (n_embd // n_head)
    out: dict[str, Shape] = {"transformer.wte.weight": (n_vocab, d)}
    out["transformer.wpe.weight"] = (n_ctx, d)
    for i in range(n_layer):
        at = f"transformer.h.{i}."
        for norm in ("ln_1", "ln_2"):
            out |= {f"{at}{norm}.weight": (d,), f"{at}{norm}.bias": (d,)}
        for name, rows, columns in (
            ("attn.c_attn", d + kv, d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", 4 * d, d),
            ("mlp.c_proj", d, 4 * d),
        ):
            out |= {f"{at}{name}.weight": (rows, columns), f"{at}{name}.bias": (rows,)}
    return out | {"transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)}


def make_checkpoint(folder: Path, model: str) -> None:
    """Write the shards, their index, a config and a tokenizer."""
    n_embd, n_layer, n_head, n_vocab, n_ctx = GEOMETRY[model]
    folder.mkdir(parents=True)
    config = {
        "architectures": ["GPTBigCodeForCausalLM"], "model_type": "gpt_bigcode", "n_embd": n_embd,
        "n_layer": n_layer, "n_head": n_head, "n_inner": 4 * n_embd, "n_positions": n_ctx, "vocab_size": n_vocab,
        "multi_query": True, "activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder)
    tensors = shapes(n_embd, n_layer, n_head, n_vocab, n_ctx)
    total = 2 * sum(int(np.prod(shape)) for shape in tensors.values())
    write_weights(folder, tensors, total // N_SHARDS + (n_vocab * n_embd))


def _write_tokenizer(folder: Path) -> None:
    """Write the bundled model's BPE tokenizer, with digits split one by one as in StarCoder's."""
    tokenizer = json.loads((demo_checkpoint() / "tokenizer.json").read_text())
    digits = {"type": "Digits", "individual_digits": True}
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence", "pretokenizers": [digits, tokenizer["pre_tokenizer"]],
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
    )


def find_llama_cpp(given: Path | None, folder: Path) -> Path | None:
    """Return the given checkout of llama.cpp, or that in llama-cpp-python's source distribution; None if it fails."""
    if given:
        return given
    import llama_cpp

    want = f"llama-cpp-python=={llama_cpp.__version__}"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--no-binary", ":all:", "-d", str(folder), want], capture_output=True, check=False
    )
    archives = list(folder.glob("llama_cpp_python-*.tar.gz"))
    if done.returncode or not archives:
        print(f"llama.cpp's converter cannot be downloaded: {done.stderr.decode()[-200:]}")
        return None
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))


def llama_cpp_command(checkout: Path, folder: Path) -> tuple[str, ...]:
    """Return the command of llama.cpp's converter, with a fixed pre-tokenizer: it knows only published tokenizers."""
    known = (
        "import sys, runpy; sys.path.insert(0, {root!r}); sys.path.insert(1, {gguf!r})\n"
        "sys.argv = sys.argv[1:]\n"
        "import importlib\n"
        "for name in ('conversion.base', 'convert_hf_to_gguf'):\n"
        "    try: module = importlib.import_module(name)\n"
        "    except ModuleNotFoundError: continue\n"
        "    for cls in (getattr(module, 'TextModel', None), getattr(module, 'Model', None)):\n"
        "        if cls is not None and hasattr(cls, 'get_vocab_base_pre'):\n"
        "            cls.get_vocab_base_pre = lambda self, tokenizer: 'starcoder'\n"
        "runpy.run_path({script!r}, run_name='__main__')\n"
    ).format(
        root=str(checkout),
        gguf=str(checkout / "gguf-py"),
        script=str(checkout / "convert_hf_to_gguf.py"),
    )
    driver = folder / "llama_cpp_convert.py"
    driver.write_text(known)
    return (sys.executable, str(driver), "convert_hf_to_gguf.py")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=GEOMETRY, default="santacoder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="folder for temporary files (default: the system's)"
    )
    parser.add_argument("--llama-cpp", type=Path, help="a checkout of llama.cpp")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make_checkpoint(args.make, args.model)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as tmp:
        work = Path(tmp)
        source, out = work / "checkpoint", work / "out.gguf"
        # In a child process: Linux counts a parent's peak memory as its later children's.
        measure(sys.executable, __file__, "--make", str(source), "--model", args.model)
        checkout = find_llama_cpp(args.llama_cpp, work)
        size = sum(p.stat().st_size for p in source.glob("*.safetensors"))
        print(
            f"{args.model}: {size / 1e9:.2f} GB in {len(list(source.glob('*.safetensors')))} shards"
        )

        ours = (sys.executable, "-m", "turbopilot", "convert", str(source), "-o", str(out))
        commands = {"cp": ("cp", "-r", str(source), str(work / "copy")), "turbopilot convert": ours}
        if checkout:
            theirs = llama_cpp_command(checkout, work)
            options = (str(source), "--outfile", str(out), "--outtype", "f16")
            commands["convert_hf_to_gguf.py"] = (*theirs, *options)
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                warm(work, size)
                if (run := measure(*command, may_fail="hf_to" in name)) is not None:
                    runs[name].append(run)
                out.unlink(missing_ok=True)
                subprocess.run(["rm", "-rf", str(work / "copy")], check=True)
        report(runs)


def report(runs: dict[str, list[Run]]) -> None:
    """Print the medians and the ratios of our converter to the others."""
    median = medians(runs)
    ours, cp = median["turbopilot convert"], median["cp"]
    print(f"ours / (2 × cp + 1 s): {ours.seconds / (2 * cp.seconds + 1):.2f}")
    if theirs := median.get("convert_hf_to_gguf.py"):
        print(f"ours / llama.cpp's: time {ours.seconds / theirs.seconds:.2f}, ", end="")
        print(f"memory {ours.peak / theirs.peak:.2f}")


if __name__ == "__main__":
    main()
