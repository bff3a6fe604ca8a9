"""Measurement of this machine while the engine is idle."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from serve.decoder import Decoder
from serve.engine.prefix_store import PrefixStore
from serve.engine.recovery import Recovery
from turbopilot.base.errors import TurboPilotError

log = logging.getLogger("turbopilot.engine")


class Tuner:
    """Measures which settings of the decoder are fast on this machine, and uses them at the end.

    Attributes:
        is_done: whether there is nothing to measure.
    """

    def __init__(self, decoder: Decoder, store: PrefixStore, recovery: Recovery) -> None:
        self._decoder, self._store, self._recovery = decoder, store, recovery
        self.is_done = not decoder.can_tune
        self._pieces: Iterator[bool] = iter(()) if self.is_done else decoder.tune()

    def work(self) -> None:
        """Do the next piece of work, of less than half a second. No request may be running."""
        try:
            changed = next(self._pieces, None)
        except TurboPilotError as e:
            log.warning("the fastest settings could not be measured: %s", e)
            changed = None
        self.is_done = changed is None
        if changed:
            self._recovery.rebuild()
            self._store.reset(self._decoder.identity)
