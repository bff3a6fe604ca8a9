"""Choice of a quantization type for a model that is named without one."""

from __future__ import annotations

from turbopilot.base.errors import InvalidInput
from turbopilot.base.progress import Reporter
from turbopilot.base.sizes import size
from turbopilot.llama.footprint import default_context, footprint
from turbopilot.llama.geometry import Geometry, weights_bytes
from turbopilot.llama.model_memory import usable_memory
from turbopilot.llama.placement_wish import PlacementWish


def type_that_fits(
    name: str, shape: tuple[Geometry, int, int], reporter: Reporter, wish: PlacementWish
) -> str:
    """Return the best type that fits on this machine, the one that `turbopilot models` shows.

    Args:
        name: the model.
        shape: geometry, number of weights and trained context, as `planned_geometry` returns them.
        reporter: receives the choice.
        wish: devices to fit it on.

    Raises:
        InvalidInput: the model does not fit in any type.
    """
    geometry, n_weights, trained = shape
    n_ctx, memory = default_context(trained), usable_memory(wish)
    chosen = memory.best_type(geometry, n_weights, n_ctx)
    weights = weights_bytes(geometry, n_weights, chosen or "Q4_0")
    n_bytes = size(footprint(geometry, weights, n_ctx).total)
    if not chosen:
        raise InvalidInput(
            f"{name}: does not fit in memory: as Q4_0 it takes {n_bytes}, and models may use {memory}",
            hint=f"make a smaller file: turbopilot quantize {name} --fit {size(memory.total).replace(' ', '')}; or "
            "choose another model: turbopilot models",
        )
    reporter.notify(
        f"chose {chosen} for {n_weights / 1e9:.2f} billion weights: it takes {n_bytes}, and models may use {memory}; "
        "to choose another type, give NAME:TYPE or run turbopilot quantize"
    )
    return chosen
