"""Requests to a running server: completions at a place in a file, and its status."""
