"""Old import path of serve.models."""

from serve.models.pool import STAYS
from serve.models.pool import ModelPool as Models
from serve.models.service import ModelStatus

__all__ = ["STAYS", "ModelStatus", "Models"]
