"""Requests and answers of every dialect, each declared once, one dialect a file; without Flask."""
