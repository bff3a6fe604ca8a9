"""`python -m turbopilot`."""

from turbopilot.cli import main

main()
