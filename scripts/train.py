"""Trains a policy: python scripts/train.py --config configs/cartpole.yaml [--KEY VALUE ...]"""

from rlscan._cli import train_main

if __name__ == "__main__":
    raise SystemExit(train_main())
