"""Tests of plugins in real editors, against a live server with the bundled model; scripts/test_editors runs them."""

import pytest

# For detailed messages of failed assertions in this module.
pytest.register_assert_rewrite("tests.real_editors.window")
