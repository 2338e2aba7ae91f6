"""A task says what a batch, a loss and a metric are.

It is a class made with the task's arguments of the config, and with `label_smoothing` if it takes that. It offers

    loss(outputs, batch) -> (sum, count)    tensors of shape (); the sum's gradient trains, count is of rows
    metrics(outputs, batch) -> {name: sum}  tensors of shape (), or (k,)
    metric_names                            what an evaluation gives besides the loss
    lower_is_better                         those of them, and of "loss", that are better when lower

Sums and counts are what travels: a mean is formed once, after they were reduced over the workers. It may also offer

    label(n_outputs) -> LabelSpec | None    what a label is, for a network of so many outputs (None: it is not known);
                                            without it a class number, and None: the batch has no "label" at all
    rows(outputs, batch) -> {name: tensor}  of shape (rows, k): what has to be seen together, kept as fp32
    finish(means, count, rows) -> {name: value}
                                            what is no mean: from the means of all sums (a float, or k of them), the
                                            number of rows that counted, and those rows of the whole set in its order
"""
