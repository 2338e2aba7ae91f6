"""Watching over workers from outside: who stands where, who is missing, and why. Free of torch."""
