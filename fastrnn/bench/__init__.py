"""Measurements that people can believe: this package beside the others, every contender in a process of its own.

Rounds are interleaved, all contenders within each, and a ratio is taken within its round: the speed of a shared machine
drifts, ratios do not. Compilation and warm-up lie outside the clock and are reported apart, and whatever is timed has
first been checked against the reference in float64.
"""
