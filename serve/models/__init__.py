"""Several models in one process: loaded on demand, unloaded to make room or when idle."""

from serve.models.pool import ModelPool
from serve.models.pooled_model import PooledModel
from serve.models.service import ModelStatus

__all__ = ["ModelPool", "ModelStatus", "PooledModel"]
