"""Old import path of serve.runner.generation."""

from serve.runner.generation import (
    LOOK_AROUND,
    Answer,
    Choice,
    ClientGone,
    ClientWatch,
    Generation,
)

__all__ = ["LOOK_AROUND", "Answer", "Choice", "ClientGone", "ClientWatch", "Generation"]
