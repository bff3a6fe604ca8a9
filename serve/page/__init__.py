"""The server's page. `static/` is what `scripts/build_page` makes of `src/`."""
