"""Steps of scripts/check_gpu: verify, completions, fit, speed and freed memory, each with a verdict."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from bench.client import BadAnswer, complete, greedy
from bench.gpu_check import (
    GpuCheck,
    GpuResults,
    Models,
    SpeedRow,
    free_memory,
    has_option,
    run_turbopilot,
)
from bench.memory_limit import Unlimited
from bench.scenarios import closed_loop
from bench.served_speed import measure_serving
from bench.servers import OURS, NotStarted, started

# Other programs on the GPU, and the driver's own bookkeeping, change the free memory by less than this.
_FREED_WITHIN = 16 << 20
_REQUESTS = 2  # of each stream


def all_steps(check: GpuCheck) -> GpuResults:
    """Run the steps whose time has not run out."""
    results = GpuResults()
    said = run_turbopilot("doctor", "--offline", "--no-speed", "--json", may_fail=True)
    results.doctor = json.loads(said)
    before = free_memory(check.rpc)
    results.has_gpu = bool(before)
    if not before:
        results.add("devices", None, "llama.cpp sees no GPU: every step runs on the processor")
    demo, random_model = Models(check, "demo"), Models(check, "random")
    for step, models in (
        (offload, demo),
        (verify, demo),
        (completions, demo),
        (fit, random_model),
        (speed, random_model),
    ):
        if check.has_time():
            step(check, models, results)
        else:
            results.add(step.__name__, None, "no time left")
    after = free_memory(check.rpc)
    if before:
        lost = {name: free - after.get(name, 0) for name, free in before.items()}
        detail = ", ".join(f"{name}: {n / 1e6:+.1f} MB taken" for name, n in lost.items())
        results.add("freed", all(n <= _FREED_WITHIN for n in lost.values()), detail)
    else:
        results.add("freed", None, "no GPU")
    return results


def verify(check: GpuCheck, models: Models, results: GpuResults) -> None:
    """Compare the bundled model's files with PyTorch, with each number of layers on the GPU."""
    if not has_option("verify", "--ngl"):
        results.add("verify", None, "this version's verify has no --ngl")
        return
    files = [str(models.file(t)) for t in check.sizes.types]
    for name, layers in models.layers().items():
        options = ["--against", "demo", "--positions", str(check.sizes.positions), "--json"]
        workers = ["--rpc", check.rpc] if check.rpc else []
        said = run_turbopilot(
            "verify", *files, *options, "--ngl", str(layers), *workers, may_fail=True
        )
        if not said:
            results.add(f"verify, {name} layers", False, "verify ended with an error")
            continue
        reports = json.loads(said)["reports"]
        worst = ", ".join(f"{r['type_name']} KL {r['metrics']['mean_kl']:.1e}" for r in reports)
        results.add(f"verify, {name} layers", all(r["passed"] for r in reports), worst)


def completions(check: GpuCheck, models: Models, results: GpuResults) -> None:
    """Compare greedy completions with those without the GPU."""
    ours = next(p for p in check.peers if p.server.name == OURS)
    n_prompt, n_tokens = check.sizes.tokens
    prompts = models.prompts(check.sizes.completions, n_prompt)

    async def ask(port: int) -> list[str]:
        return [(await complete(port, greedy(p, n_tokens, stream=False))).text for p in prompts]

    for type_name in check.sizes.types:
        found = {}
        for name, layers in models.layers().items():
            settings = ours.settings(layers, 1, sum(check.sizes.tokens) + 64, check.rpc)
            with started(ours.server, models.file(type_name), check.n_threads, settings) as server:
                found[name] = asyncio.run(ask(server.port))
        base = found.pop("0")
        same = {n: sum(a == b for a, b in zip(base, t, strict=True)) for n, t in found.items()}
        detail = ", ".join(f"{name} layers: {n} of {len(base)} equal" for name, n in same.items())
        results.add(f"completions, {type_name}", all(n == len(base) for n in same.values()), detail)


def offload(check: GpuCheck, models: Models, results: GpuResults) -> None:
    """Serve the bundled model, and compare the layers that llama.cpp reports with those that were asked for."""
    if not free_memory(check.rpc):
        results.add("offload", None, "no GPU")
        return
    for name, layers in models.layers().items():
        line, _ = _served(check, models.f16, ["--ngl", str(layers)])
        found = re.search(r"(\d+) of \d+ layers", line)
        is_so = found is not None and int(found[1]) == layers
        results.add(f"offload, {name} layers", is_so, line)


def _served(check: GpuCheck, model: Path, options: Sequence[str]) -> tuple[str, int]:
    """Serve a model; return the line of the log about the GPU, and the number of tokens that it generated."""
    given = [*options, "--ctx", "512", *(["--rpc", check.rpc] if check.rpc else [])]
    served = measure_serving(model, given, Unlimited(), n_prompt=32, n_generate=8)
    return next((x for x in served.report if x.startswith("GPU")), "no line"), served.generated


def fit(check: GpuCheck, models: Models, results: GpuResults) -> None:
    """Serve the F16 file with `--ngl auto`, told that each device has half of its size."""
    if not free_memory(check.rpc) or not has_option("serve", "--gpu-memory"):
        why = "this version's serve has no --gpu-memory" if results.has_gpu else "no GPU"
        results.add("fit", None, why)
        return
    told = models.f16.stat().st_size // 2 >> 20
    try:
        line, generated = _served(
            check, models.f16, ["--ngl", "auto", "--gpu-memory", f"{told}MiB"]
        )
    except SystemExit as e:
        results.add("fit", False, str(e)[-500:])
        return
    layers = re.search(r"(\d+) of (\d+) layers", line)
    least = check.sizes.least_fitted
    some = layers is not None and least <= int(layers[1]) < int(layers[2])
    results.add("fit", some and generated > 0, f"{told} MiB for a model of {2 * told} MiB: {line}")


def speed(check: GpuCheck, models: Models, results: GpuResults) -> None:
    """Measure streams in every type, first with all layers on the GPU, until the time runs out."""
    prompts = models.prompts(_REQUESTS * sum(check.sizes.streams), check.sizes.tokens[0])
    cells = [(t, name) for name in models.layers() for t in check.sizes.types]
    longest = 0.0
    for done, (type_name, name) in enumerate(cells):
        if not check.has_time(longest):
            left = ", ".join(f"{t} with {n} layers" for t, n in cells[done:])
            results.add("speed", None, f"no time left for {left}")
            break
        began = time.monotonic()
        results.speeds += _speed_rows(check, models, (type_name, name), prompts, results)
        longest = max(longest, time.monotonic() - began)
    ratios = [r.ratio for r in results.speeds if r.ratio is not None]
    if ratios and check.sizes.compares_speed:
        slower = sum(r < 1 for r in ratios)
        detail = f"{len(ratios) - slower} of {len(ratios)} at least as fast as llama-server"
        results.add("speed beside llama-server", not slower, f"{detail}; least {min(ratios):.2f} ×")
    else:
        why = "the sizes are too small" if ratios else "no llama-server was given"
        results.add("speed beside llama-server", None, why)


def _speed_rows(
    check: GpuCheck,
    models: Models,
    cell: tuple[str, str],
    prompts: Sequence[str],
    results: GpuResults,
) -> list[SpeedRow]:
    """Measure a cell (type, layers on the GPU) on one start of each server."""
    type_name, name = cell
    most, (n_prompt, n_tokens) = max(check.sizes.streams), check.sizes.tokens
    found: dict[int, dict[str, float]] = {n: {} for n in check.sizes.streams}
    ctx = -(-(n_prompt + n_tokens + 1) // 256) * 256
    for peer in check.peers:
        settings = peer.settings(models.layers()[name], most, ctx, check.rpc)
        supply = cycle(prompts)
        try:
            with started(peer.server, models.file(type_name), check.n_threads, settings) as server:
                for streams in found:
                    queues = [list(islice(supply, _REQUESTS)) for _ in range(streams)]
                    ran = asyncio.run(closed_loop(server.port, queues, n_tokens))
                    found[streams][peer.server.name] = ran.found["tokens_per_second"]
        except (NotStarted, BadAnswer, OSError) as e:
            what = f"speed, {type_name}, {name} layers"
            results.add(what, False, f"{peer.server.name}: {e}"[-500:])
    return [SpeedRow(type_name, name, n, speeds) for n, speeds in found.items()]
