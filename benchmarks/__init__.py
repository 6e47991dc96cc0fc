"""What rlscan claims, measured: each file is one benchmark, `python -m benchmarks.NAME`."""
