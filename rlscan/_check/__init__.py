"""Checks of a policy and an environment, before anything is compiled."""
