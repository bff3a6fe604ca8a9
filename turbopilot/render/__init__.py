"""Results as text, tables, JSON, HTML and plots."""
