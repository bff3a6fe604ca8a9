"""One file per model family: data only. `converters.registry` lists them."""
