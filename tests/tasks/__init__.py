"""Tests of turbopilot.tasks and of the runs that compare completions."""
