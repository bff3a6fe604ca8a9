"""Data-parallel training of the demo model on CPU cores, within a budget of time, that can be stopped and resumed."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor

from demo.network import DemoModel
from demo.optimizer import Optimizer, shared_zeros
from demo.samples import Samples

CHUNK = 1024  # tokens of one forward and backward pass
# Tokens of a row, before and during the last LONG_SHARE, which trains positions beyond 512.
SHORT, LONG = 512, 1024
LONG_SHARE = 0.3
WARM_UP = 100  # steps
COUNTERS = ("step", "tokens", "seconds", "best", "since_best")  # attributes that are saved


@dataclass(frozen=True, slots=True)
class Plan:
    """Length and speed of a training.

    Attributes:
        minutes: budget; the learning rate falls to 0 at its end.
        stop_after: minutes after which this run saves its state and stops.
        tokens: tokens per step.
        rate: factor of the learning rates.
        decay: share of the budget during which the learning rate falls.
        evaluate: steps between two evaluations, each of which also saves the state.
        patience: evaluations without a new best held-out loss after which the training ends.
        workers: processes, each with one thread.
    """

    minutes: float = 90.0
    stop_after: float = math.inf
    tokens: int = 8192
    rate: float = 1.0
    decay: float = 0.4
    evaluate: int = 100
    patience: int = 10
    workers: int = 2

    def factor(self, step: int, progress: float) -> float:
        """Return the factor of the learning rates: warm-up, constant, then linear to 0."""
        return self.rate * max(0.0, min(1.0, (step + 1) / WARM_UP, (1 - progress) / self.decay))


class Shared:
    """State that the processes share: weights, the optimizer's state, gradients, and how many chunks are taken."""

    def __init__(self, model: DemoModel, workers: int) -> None:
        self.model = model.share_memory()
        parameters = list(model.parameters())
        self.optimizer = Optimizer(parameters, [p for p in model.h.parameters() if p.ndim == 2])
        self.sizes = [p.numel() for p in parameters]
        self.grads = shared_zeros(workers, sum(self.sizes))
        self.loss = shared_zeros(workers)
        # step, tokens of a row, factor of the learning rates, whether to stop
        self.control = shared_zeros(4)
        context = mp.get_context("fork")
        self.taken = context.Value("i", 0)
        self.barrier = context.Barrier(workers)


def work(rank: int, shared: Shared, samples: Samples, plan: Plan) -> bool:
    """Take part in one step, which rank 0 has announced in `shared.control`; return False at the end.

    Each process computes chunks until none is left, so that a process whose core is busy with other programs does not
    hold up the others; then each updates its share of the parameters.
    """
    shared.barrier.wait()
    step, n, factor, stop = shared.control.tolist()
    if stop:
        return False
    parameters = shared.optimizer.parameters
    mine = shared.grads[rank]
    mine.zero_()
    for p, grad in zip(parameters, torch.split(mine, shared.sizes), strict=True):
        p.grad = grad.view_as(p)
    rows, loss = CHUNK // int(n), 0.0
    while True:
        with shared.taken.get_lock():
            chunk = shared.taken.value
            shared.taken.value += 1
        if chunk >= plan.tokens // CHUNK:
            break
        ids, targets = samples.rows(int(step), chunk * rows, rows, int(n))
        part = shared.model.loss(ids, targets) / plan.tokens
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.item()
    shared.loss[rank] = loss
    shared.barrier.wait()
    workers = len(shared.grads)
    for i, grads in enumerate(torch.split(shared.grads, shared.sizes, dim=1)):
        if i % workers == rank:
            grad = grads.sum(0).view_as(parameters[i])
            shared.optimizer.update(i, grad, factor, int(step))
    shared.barrier.wait()
    return True


def follow(rank: int, shared: Shared, samples: Samples, plan: Plan) -> None:
    """Take part in all steps."""
    torch.set_num_threads(1)
    while work(rank, shared, samples, plan):
        pass


class Training:
    """A training with its state on disk: `state.pt`, and `best.pt` with the weights of the best held-out loss."""

    def __init__(self, model: DemoModel, samples: Samples, plan: Plan, folder: Path) -> None:
        self.shared, self.samples, self.plan = Shared(model, plan.workers), samples, plan
        self._file, self._best_file = folder / "state.pt", folder / "best.pt"
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.best, self.since_best, self._is_stopping = math.inf, 0, False
        if self._file.exists():
            self._load(torch.load(self._file, weights_only=True))

    @property
    def progress(self) -> float:
        return self.seconds / (60 * self.plan.minutes)

    def _load(self, saved: dict[str, Any]) -> None:
        self.shared.model.load_state_dict(saved["model"])
        kept = self.shared.optimizer
        for name in ("first", "second"):
            for mine, theirs in zip(getattr(kept, name), saved[name], strict=True):
                mine.copy_(theirs)
        for name in COUNTERS:
            setattr(self, name, saved[name])

    def save(self) -> None:
        kept = self.shared.optimizer
        counters = {name: getattr(self, name) for name in COUNTERS}
        weights = {
            "model": self.shared.model.state_dict(),
            "first": kept.first,
            "second": kept.second,
        }
        write(self._file, {**weights, **counters})

    def run(self, held_out: Callable[[DemoModel], float]) -> bool:
        """Train until the budget is spent, the held-out loss no longer falls, `stop_after`, or SIGTERM.

        Args:
            held_out: function that returns the held-out loss.

        Returns:
            Whether the training is complete.
        """
        torch.set_num_threads(1)
        context = mp.get_context("fork")
        followers = [
            context.Process(
                target=follow, args=(rank, self.shared, self.samples, self.plan), daemon=True
            )
            for rank in range(1, self.plan.workers)
        ]
        for process in followers:
            process.start()
        former = signal.signal(signal.SIGTERM, self._stop)
        began, first, running, stalled = time.monotonic(), self.step, 0.0, False
        deadline = began + 60 * self.plan.stop_after
        while not (
            stalled or self._is_stopping or self.progress >= 1 or time.monotonic() > deadline
        ):
            loss = self._one_step()
            running = loss if not running else 0.95 * running + 0.05 * loss
            if self.step % 10 == 0:
                rate = self.plan.tokens * (self.step - first) / (time.monotonic() - began)
                spent = f"{rate:,.0f} tokens/s  {self.seconds / 60:.1f} min"
                print(f"step {self.step:5d}  loss {running:.4f}  {spent}", flush=True)
            if self.progress >= 1 or self.step % self.plan.evaluate == 0:
                stalled = self._evaluate(held_out)
        signal.signal(signal.SIGTERM, former)
        self.save()
        self.shared.control[3] = 1
        work(0, self.shared, self.samples, self.plan)
        for process in followers:
            process.join()
        return stalled or self.progress >= 1

    def _stop(self, *_: object) -> None:
        self._is_stopping = True

    def _one_step(self) -> float:
        """Make one step; return its loss."""
        began = time.monotonic()
        n = SHORT if self.progress < 1 - LONG_SHARE else LONG
        factor = self.plan.factor(self.step, self.progress)
        self.shared.control[:] = torch.tensor([self.step, n, factor, 0])
        self.shared.taken.value = 0
        work(0, self.shared, self.samples, self.plan)
        self.step += 1
        self.tokens += self.plan.tokens
        self.seconds += time.monotonic() - began
        return float(self.shared.loss.sum())

    def _evaluate(self, held_out: Callable[[DemoModel], float]) -> bool:
        """Evaluate and save; return whether the held-out loss has not fallen for too long."""
        began = time.monotonic()
        loss = held_out(self.shared.model)
        self.since_best += 1
        if loss < self.best:
            self.best, self.since_best = loss, 0
            write(self._best_file, self.shared.model.state_dict())
        self.save()
        self.seconds += time.monotonic() - began
        print(
            f"step {self.step:5d}  held-out {loss:.4f} bits per byte, best {self.best:.4f}",
            flush=True,
        )
        return self.since_best >= self.plan.patience

    def best_weights(self) -> dict[str, Tensor]:
        """Return the weights of the best held-out loss."""
        weights: dict[str, Tensor] = torch.load(self._best_file, weights_only=True)
        return weights


def write(file: Path, value: object) -> None:
    """Write with torch.save to a temporary file that then replaces `file`."""
    part = file.with_suffix(".part")
    torch.save(value, part)
    part.replace(file)
