"""The program's version, in one place: `pyproject.toml` and every file we write read it here."""

__version__ = "0.1.0"
