"""Shared code of the benchmarks: clients, servers, random checkpoints, and time and memory of processes."""
