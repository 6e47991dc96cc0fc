"""Pictures of runs: learning curves and episodes."""
