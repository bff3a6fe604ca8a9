"""Errors, progress, atomic files, digests and facts about this machine; imports nothing else of the project."""
