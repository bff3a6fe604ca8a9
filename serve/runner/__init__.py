"""The thread that runs an engine, and the queues to and from it."""

from serve.runner.generation import Generation
from serve.runner.runner import EngineRunner

__all__ = ["EngineRunner", "Generation"]
