"""What clients send and read, one dialect a file: JSON → completions, and events → JSON. Pure; knows no Flask."""
