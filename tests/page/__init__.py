"""Tests of the server's page in a headless Chromium; scripts/test_page runs them."""

import pytest

# For detailed messages of failed assertions in these modules.
pytest.register_assert_rewrite("tests.page.watched", "tests.page.axe")
