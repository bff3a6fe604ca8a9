"""Warning about GPUs that are present, but that this build of llama.cpp cannot use."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from turbopilot.base.backends import BACKENDS, CPU, Reinstallation, choose_backend
from turbopilot.base.graphics import GraphicsCard, Host


def unused_gpu_warning(
    cards: Sequence[GraphicsCard],
    built: Collection[str],
    host: Host = Host(),  # noqa: B008 — frozen
) -> str:
    """Return one warning about a GPU that is present and not used, with a remedy; "" if there is none.

    Args:
        cards: the GPUs of this machine.
        built: names of the backends in this build, such as "cuda"; see `turbopilot.base.backends.BACKENDS`.
        host: the machine, with the tools for compiling llama.cpp.
    """
    for card in cards:
        suited = {b.name for b in BACKENDS if card.vendor in b.vendors}
        if card.is_integrated or suited & {*built}:
            continue  # if the build is right, llama.cpp's log says why it finds no device
        name = card.name if card.name.startswith(card.vendor) else f"{card.vendor} {card.name}"
        if not card.is_usable:
            return f"{name} cannot be used: turbopilot doctor states what is missing"
        choice = choose_backend([card], host)
        if choice.backend == CPU:
            return f"{name} is not used, because this llama.cpp was compiled without it: {choice.missing}"
        return (
            f"{name} is not used, because this llama.cpp was compiled without it. Compile it again: "
            f"{Reinstallation(choice.backend).shell}"
        )
    return ""
