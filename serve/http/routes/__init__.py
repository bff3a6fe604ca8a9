"""The HTTP dialects, one blueprint a file. They translate; what is computed is decided elsewhere."""
