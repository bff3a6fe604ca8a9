"""What the server speaks, as OpenAPI 3.1 says it: data, one dialect a file. Pure; knows neither Flask nor parsers.

The ranges are the parsers' own constants; `tests/serve/test_openapi.py` holds every field against its parser.
"""

from serve.api.openapi.document import description

__all__ = ["description"]
