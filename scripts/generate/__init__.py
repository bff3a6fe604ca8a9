"""Generators of the documents that repeat what the code declares; `scripts/docs` runs them."""
