"""How speed and memory grow with N, T, the dropout rate, the width, and the number of seeds."""
