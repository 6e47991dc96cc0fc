"""Checks of a policy and an environment, made before anything is compiled."""
