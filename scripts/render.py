"""Draws an episode of a run: python scripts/render.py RUN_DIR --output episode.gif [--help]"""

from rlscan._cli.render import render_main

if __name__ == "__main__":
    raise SystemExit(render_main())
