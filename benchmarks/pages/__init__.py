"""Figures of the documentation, read from the results that the benchmarks keep.

A page says `{{ suite.ratio("switches", "cond, off", "inference mode", "N = 64") }}` in the place of
a figure, and `{{ suite.speed() }}` in that of a table. `docs/hooks.py` fills them in when the pages
are built, so that no figure is typed, and none is out of date.
"""

from benchmarks.pages.render import render as render
