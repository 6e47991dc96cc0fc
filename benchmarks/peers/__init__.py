"""A comparison of rlscan with other libraries: `python -m benchmarks.peers`."""
