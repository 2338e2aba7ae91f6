"""A task says what a batch, a loss and a metric are.

It is a class made with the task's arguments of the config. It offers `loss(outputs, batch) -> (sum, count)`, tensors of
shape (), and `metrics(outputs, batch) -> {name: sum}`; `metric_names` lists them, and `lower_is_better` those that are
better when lower. Sums and counts are what travels: a mean is formed once, after they were reduced over the workers.
"""
