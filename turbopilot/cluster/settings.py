"""The options of a replica's server, from its role."""

from __future__ import annotations

from serve.model_choice import ModelChoice
from serve.options import read_settings
from serve.settings import ServerOptions
from turbopilot.app.served_models import with_models
from turbopilot.base.progress import Reporter
from turbopilot.cluster.roles import Role
from pathlib import Path


def read_role(role: Role) -> ServerOptions:
    """Return the options, with the model's file on this node; it is downloaded or converted if needed.

    Raises:
        InvalidInput: an option cannot be used, or the file is not on this node.
    """
    options = read_settings(ServerOptions, role.settings, model_file=Path())
    return with_models(options, read_settings(ModelChoice, role.settings), Reporter())
