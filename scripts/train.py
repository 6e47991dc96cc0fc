"""Trains a policy: python scripts/train.py --config configs/cartpole.yaml [--KEY VALUE ...]"""

import os
import signal
from typing import Any, NoReturn


def end(number: int, frame: Any) -> NoReturn:
    """Ends at once. An exception would not do: in a callback, such as JAX has in the garbage
    collector, it is printed and lost, and the program goes on."""
    os.write(2, b"error: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored
        signal.signal(signal.SIGINT, end)
    from rlscan._cli.train import train_main  # takes seconds, with Ctrl-C heard

    raise SystemExit(train_main())
