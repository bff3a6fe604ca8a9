"""Output of results as text, tables, JSON, HTML and plots."""
