"""Several models in one process: loaded on demand, unloaded when idle or to make room."""

from serve.models.pool import ModelPool
from serve.models.pooled_model import PooledModel
from serve.models.status import ModelStatus

__all__ = ["ModelPool", "ModelStatus", "PooledModel"]
