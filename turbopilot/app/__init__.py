"""Use cases that need more than one package: resolve names, keep artifacts, fit into memory, try files out."""
