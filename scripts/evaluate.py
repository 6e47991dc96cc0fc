"""Evaluates the policy of a run: python scripts/evaluate.py RUN_DIR [--episodes 100] [--help]"""

from rlscan._cli.evaluate import evaluate_main

if __name__ == "__main__":
    raise SystemExit(evaluate_main())
