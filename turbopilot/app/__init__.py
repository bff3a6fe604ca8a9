"""Use cases that combine several packages: resolve model names, cache artifacts, fit a memory budget, verify files."""
