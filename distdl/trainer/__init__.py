"""Training: the loop, what it needs built, and the engines that turn a loss into an update of the weights."""
