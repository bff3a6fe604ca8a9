"""Is a GGUF file the model that it was made of? PyTorch is the judge. Knows nothing of converters.

>>> from pathlib import Path
>>> from turbopilot.verify import verify
>>> [r.passed for r in verify([Path("model.gguf")], Path("codegen-350M-mono"))]  # doctest: +SKIP
[True]
"""

from turbopilot.verify.report import Report
from turbopilot.verify.verification import Options, compare, verify

__all__ = ["Options", "Report", "compare", "verify"]
