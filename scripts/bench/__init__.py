"""Code that the benchmarks share: clients and servers, random checkpoints, time and memory of processes."""
