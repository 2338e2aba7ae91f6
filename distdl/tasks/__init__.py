"""A task says what a batch, a loss and a metric are.

It is a class called with (n_classes-independent) settings and offers: `loss(outputs, batch) -> (sum, count)`, tensors
of shape (); `metrics(outputs, batch) -> {name: sum}`; `higher_is_better` for its metrics. Sums and counts are what
travels: a mean is formed once, after they were reduced over the workers.
"""
