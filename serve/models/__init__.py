"""Several models in one process: loaded when asked for, unloaded for want of memory or of use.

pool     who uses which model, and who loads it
model    what can be loaded, and how things stand with it
waiting  for the one place where models are loaded
room     who makes room for another (pure)
idle     who has not been used for long enough
"""

from serve.models.pool import ModelPool
from serve.models.pooled_model import Loadable

__all__ = ["Loadable", "ModelPool"]
