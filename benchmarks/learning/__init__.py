"""The returns that the configs reach, over seeds."""
