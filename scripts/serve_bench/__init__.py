"""The parts of bench_serve, record_typing and soak_serve."""
