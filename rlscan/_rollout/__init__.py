"""Rollout, replay, advantages and evaluation. Their public names are in `rlscan` itself."""
