"""Adapters of other suites of environments, one file for each, imported when it is used."""
