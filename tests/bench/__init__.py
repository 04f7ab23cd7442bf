"""The benchmark: ours against what one would use instead. Prints figures and asserts nothing about them."""
