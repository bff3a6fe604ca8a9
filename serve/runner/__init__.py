"""The one thread that runs an engine, and the way to it from all others. Knows nothing of HTTP or llama.cpp.

runner      the thread: inbox, steps, recovery, the end
job         requests that were submitted together, and their events
ledger      which request is whose
steps       what the runner needs of an engine
throughput  when there will be room again
"""

from serve.runner.job import Job
from serve.runner.runner import EngineRunner

__all__ = ["EngineRunner", "Job"]
