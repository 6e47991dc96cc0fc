"""Draws the curves of runs: python scripts/plot.py RUN_DIR... --output curves.png [--help]"""

from rlscan._cli.plot import plot_main

if __name__ == "__main__":
    raise SystemExit(plot_main())
