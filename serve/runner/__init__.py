"""The one thread that runs an engine, and the way to it from all others."""

from serve.runner.generation import Generation
from serve.runner.runner import EngineRunner

__all__ = ["EngineRunner", "Generation"]
