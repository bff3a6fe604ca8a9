"""Steps of scripts/check_gpu: offload, verify, completions, fit, speed and freed memory, each with a verdict."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from bench.client import BadAnswer, complete, fetch, greedy
from bench.gpu_check import (
    GpuCheck,
    GpuResults,
    Pace,
    both_ends,
    free_memory,
    run_turbopilot,
)
from bench.gpu_completions import completions
from bench.gpu_models import Models
from bench.gpu_speed import speed
from bench.servers import PATIENCE, NotStarted, started
from bench.time_limit import Stopped, stopped_after

# Other programs on the GPU, and the driver's own bookkeeping, change the free memory by less than this.
_FREED_WITHIN = 16 << 20
_TIMED = 8  # generated tokens of the completion that is timed
_VERIFY_SHARE = 0.25  # of the time that is left
_LEAST_POSITIONS, _LEAST_VERIFY = 100, 30.0  # positions; seconds


def all_steps(check: GpuCheck, save: Callable[[GpuResults], None]) -> GpuResults:
    """Run the steps until the time has run out, or a signal ends them; `save` is called after each."""
    results = GpuResults()
    said = run_turbopilot("doctor", "--offline", "--no-speed", "--json", may_fail=True)
    results.doctor = json.loads(said)
    results.devices = free_memory(check.rpc)
    if not results.devices:
        results.add("devices", None, "llama.cpp sees no GPU: every step runs on the processor")
    demo, random_model = Models(check, "demo"), Models(check, "random")
    steps = [
        (offload, demo), (verify, demo), (completions, demo), (fit, random_model), (speed, random_model),
    ]  # fmt: skip
    running = ""
    try:
        with stopped_after(check.seconds_left):
            for step, models in steps:
                running = step.__name__
                _run(step, check, models, results)
                save(results)
        results.is_complete = True
    except Stopped as e:
        names = [step.__name__ for step, _ in steps]
        results.add(running, None, f"stopped: {e}")
        for name in names[names.index(running) + 1 :]:
            results.add(name, None, "no time left")
    _freed(check, results)
    save(results)
    return results


def _run(
    step: Callable[[GpuCheck, Models, GpuResults], None], check: GpuCheck, models: Models, results: GpuResults
) -> None:  # fmt: skip
    """Run a step. What it cannot do is a fault of that step alone."""
    try:
        step(check, models, results)
    except (SystemExit, NotStarted, BadAnswer, OSError, ValueError, KeyError) as e:
        results.add(step.__name__, False, both_ends(str(e)))


def _freed(check: GpuCheck, results: GpuResults) -> None:
    """Compare the free memory of the devices with that of the beginning."""
    if not results.devices:
        results.add("freed", None, "no GPU")
        return
    after = free_memory(check.rpc)
    lost = {name: free - after.get(name, 0) for name, free in results.devices.items()}
    detail = ", ".join(f"{name}: {n / 1e6:+.1f} MB taken" for name, n in lost.items())
    results.add("freed", all(n <= _FREED_WITHIN for n in lost.values()), detail)


def verify(check: GpuCheck, models: Models, results: GpuResults) -> None:
    """Compare the bundled model's files with PyTorch, with each number of layers on the GPU."""
    files = [str(models.file(t)) for t in check.sizes.types]
    workers = ["--rpc", check.rpc] if check.rpc else []
    ends = time.monotonic() + _VERIFY_SHARE * check.seconds_left
    for i, (name, layers) in enumerate(models.layers().items()):
        seconds = (ends - time.monotonic()) / (len(models.layers()) - i)
        most = check.sizes.positions
        if pace := results.paces.get(name):
            # Half of the time is for PyTorch.
            most = max(_LEAST_POSITIONS, min(most, int(seconds / 2 * pace.prompt / len(files))))
        options = ["--against", "demo", "--positions", str(most), "--json", "--ngl", str(layers)]
        what = f"verify, {name} layers"
        try:
            said = run_turbopilot(
                "verify",
                *files,
                *options,
                *workers,
                may_fail=True,
                seconds=max(2 * seconds, _LEAST_VERIFY),
            )
        except subprocess.TimeoutExpired as e:
            results.add(what, None, f"{most} positions took more than {e.timeout:.0f} s")
            continue
        if not said:
            results.add(what, False, "verify ended with an error")
            continue
        reports = json.loads(said)["reports"]
        worst = ", ".join(f"{r['type_name']} KL {r['metrics']['mean_kl']:.1e}" for r in reports)
        results.add(what, all(r["passed"] for r in reports), f"{most} positions; {worst}")


def offload(check: GpuCheck, models: Models, results: GpuResults) -> None:
    """Serve the bundled model; compare the layers that are on the GPU with those that were asked for. Time it too."""
    for name, layers in models.layers().items():
        if layers and not results.devices:
            continue
        parts, results.paces[name] = _served(check, models, ["--ngl", str(layers)])
        found = sum(p["layers"] + p["has_output"] for p in parts[1:])
        results.add(f"offload, {name} layers", found == layers, _placed(parts, results.paces[name]))


def fit(check: GpuCheck, models: Models, results: GpuResults) -> None:
    """Serve the F16 file with `--ngl auto`, told that the devices have half of its size."""
    if not results.devices:
        results.add("fit", None, "no GPU")
        return
    size = models.f16.stat().st_size >> 20
    told = size // 2 // len(results.devices)
    parts, pace = _served(check, models, ["--ngl", "auto", "--gpu-memory", f"{told}MiB"])
    layers = [p["layers"] + p["has_output"] for p in parts[1:]]
    within = all(p["weights"] + p["kv"] + p["compute"] <= told << 20 for p in parts[1:])
    some = check.sizes.least_fitted <= sum(layers) and parts[0]["layers"] > 0
    detail = f"{told} MiB of each device for a model of {size} MiB: {_placed(parts, pace)}"
    results.add("fit", some and within, detail)


def _served(
    check: GpuCheck, models: Models, options: Sequence[str]
) -> tuple[list[dict[str, Any]], Pace]:
    """Serve the F16 file; return what is in main memory and on each device, as /health reports it, and the pace."""
    given = [*options, "--ctx", "512", "--no-heal", "--no-end-loops"]
    given += ["--rpc", check.rpc] if check.rpc else []
    prompts = list(islice(models.prompts(32), 2))
    patience = min(PATIENCE, check.seconds_left)
    ours, path = check.ours.server, models.f16
    with started(ours, path, check.n_threads, given, patience=patience) as server:
        _, body, _ = asyncio.run(fetch(server.port, "/health"))
        parts: list[dict[str, Any]] = json.loads(body)["models"][0]["devices"]
        return parts, asyncio.run(_timed(server.port, prompts))


async def _timed(port: int, prompts: Sequence[str]) -> Pace:
    """Return the pace of the last prompt; the ones before it start what is started only once."""
    for prompt in prompts:
        first = await complete(port, greedy(prompt, 1, stream=False))
        # All of the prompt but its last token is in the prefix cache.
        then = await complete(port, greedy(prompt, _TIMED, stream=False))
    return Pace(first.n_prompt / first.seconds, then.n_tokens / then.seconds)


def _placed(parts: Sequence[dict[str, Any]], pace: Pace) -> str:
    """Return the layers and MB of each device, and the pace."""
    found = []
    for p in parts:
        output = "+output" if p["has_output"] else ""
        used = (p["weights"] + p["kv"] + p["compute"]) / 1e6
        found.append(f"{p['device']} {p['layers']}{output} layers, {used:,.0f} MB")
    return f"{'; '.join(found)} ({pace.prompt:,.0f} and {pace.generated:,.0f} tokens/s)"
