"""Entry point of `python -m turbopilot`."""

from turbopilot.cli import main

main()
