"""The bundled checkpoint: data files only. Its card is README.md."""
