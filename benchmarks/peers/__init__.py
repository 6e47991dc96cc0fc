"""rlscan beside its peers: `python -m benchmarks.peers`."""
