"""Does `mix32` give random numbers? Two batteries of statistical tests, on five streams."""
