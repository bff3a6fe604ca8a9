"""The HTML report of `verify`."""
