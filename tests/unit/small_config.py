"""The smallest config there is, a line for each section."""

SMALLEST = """\
model: {name: lenet5}
data: {train: {shards: data/train}}
train: {global_batch: 128, epochs: 5}
optim: {lr: 0.1}
"""
