"""Version of the program, which `pyproject.toml` and all writers of files read from here."""

__version__ = "0.1.0"
