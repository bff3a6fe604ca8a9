"""Errors, progress, atomic files, digests and machine information; imports no other package of the project."""
