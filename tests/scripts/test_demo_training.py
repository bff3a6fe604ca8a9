"""Training of the bundled model: gradients, learning rate, parallel steps, resuming, and the checkpoint."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from demo.export import export, load_checkpoint  # noqa: E402
from demo.network import DemoModel, Geometry, attend  # noqa: E402
from demo.optimizer import orthogonalized  # noqa: E402
from demo.training import Plan, Training  # noqa: E402

# Python 3.12 warns about a fork in a process that has threads; the workers use none of them.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
SMALL = Geometry(n_embd=64, n_layer=1, n_head=4, rotary_dim=8, n_positions=1024)
PLAN = Plan(minutes=1000, tokens=2048, evaluate=2, workers=2)


class OneText:
    """Samples that are always the same tokens."""

    def rows(self, step: int, row: int, count: int, n: int) -> tuple[Tensor, Tensor]:
        ids = torch.arange(step + row, step + row + n + 1).repeat(count, 1) % 50
        return ids[:, :-1], ids[:, 1:]


@pytest.fixture
def model() -> Iterator[DemoModel]:
    """A small network whose zero-initialized matrices are random; one thread, as in the workers."""
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    model = DemoModel(SMALL)
    for p in model.parameters():
        if p.ndim == 2 and not p.any():
            torch.nn.init.normal_(p, std=0.02)
    yield model
    torch.set_num_threads(threads)


def trained(folder: Path, steps: int, losses: list[float]) -> Training:
    """Train, or resume, until step `steps`; the evaluations return `losses` in turn, and then end the training."""
    torch.manual_seed(1)
    training = Training(DemoModel(SMALL), OneText(), PLAN, folder)  # type: ignore[arg-type]

    def held_out(_: DemoModel) -> float:
        if training.step >= steps:
            training.seconds = 60 * PLAN.minutes
        return losses.pop(0)

    training.run(held_out)
    return training


def test_attention_in_blocks_equals_causal_attention() -> None:
    q, k, v = torch.randn(3, 2, 4, 70, 16, generator=torch.Generator().manual_seed(1))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(attend(q, k, v, size=32), expected, atol=1e-5)


def test_loss_and_gradients_equal_those_in_single_precision(model: DemoModel) -> None:
    ids = torch.randint(0, 4096, (2, 301), generator=torch.Generator().manual_seed(2))
    expected = F.cross_entropy(
        model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )
    expected.backward()  # type: ignore[no-untyped-call]
    grads = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    for name, p in model.named_parameters():
        grad = grads[name]
        assert p.grad is not None
        assert grad is not None
        assert (p.grad - grad).norm() < 0.05 * grad.norm(), name


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (48, 48)])
def test_orthogonalized_matrix_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    values = torch.linalg.svdvals(orthogonalized(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_learning_rate_warms_up_and_falls_to_zero_at_the_end_of_the_budget() -> None:
    plan = Plan(rate=0.5, decay=0.4)
    assert plan.factor(0, 0.0) == pytest.approx(0.005)
    assert plan.factor(500, 0.6) == 0.5
    assert plan.factor(500, 0.8) == pytest.approx(0.25)
    assert plan.factor(500, 1.2) == 0.0


def test_training_lowers_the_loss_and_keeps_the_best_weights(tmp_path: Path) -> None:
    training = trained(tmp_path, 6, [3.0, 2.0, 2.5])
    assert training.step == 6
    assert training.best == 2.0
    ids, targets = OneText().rows(0, 0, 2, 512)
    untrained = math.log(4096)
    with torch.no_grad():
        assert training.shared.model.loss(ids, targets).item() / 1024 < untrained - 0.03
        best = DemoModel(SMALL)
        best.load_state_dict(training.best_weights())
        assert best.loss(ids, targets) > training.shared.model.loss(ids, targets)


def test_training_ends_when_the_held_out_loss_no_longer_falls(tmp_path: Path) -> None:
    assert trained(tmp_path, 1000, [1.0] + [2.0] * PLAN.patience).step == 2 * (PLAN.patience + 1)


def test_resumed_training_continues_with_the_same_state(tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = trained(tmp_path / "whole", 4, [2.0, 1.0])
    trained(tmp_path / "parts", 2, [2.0])
    state = torch.load(tmp_path / "parts/state.pt", weights_only=True)
    torch.save({**state, "seconds": 0.0}, tmp_path / "parts/state.pt")
    resumed = trained(tmp_path / "parts", 4, [1.0])
    assert resumed.step == whole.step == 4
    for a, b in zip(
        whole.shared.model.parameters(), resumed.shared.model.parameters(), strict=True
    ):
        assert torch.allclose(a, b, atol=2e-2)


def test_sigterm_saves_the_state_and_stops(tmp_path: Path) -> None:
    training = Training(DemoModel(SMALL), OneText(), PLAN, tmp_path)  # type: ignore[arg-type]

    def interrupted(_: DemoModel) -> float:
        signal.raise_signal(signal.SIGTERM)
        return 1.0

    assert not training.run(interrupted)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["tokens"] == 2 * PLAN.tokens


def test_exported_checkpoint_is_read_back(
    model: DemoModel, demo_checkpoint: Path, tmp_path: Path
) -> None:
    export(model, Tokenizer.from_file(str(demo_checkpoint / "tokenizer.json")), tmp_path)
    again = load_checkpoint(tmp_path)
    assert again.g == SMALL
    for name, p in model.named_parameters():
        assert torch.equal(p.half().float(), again.get_parameter(name)), name
