"""Several models in one process: loaded when asked for, unloaded to make room or after a time without use."""

from serve.models.pool import ModelPool
from serve.models.pooled_model import PooledModel
from serve.models.service import ModelStatus

__all__ = ["ModelPool", "ModelStatus", "PooledModel"]
