"""Corpora: sharded on disk as plain WebDataset tars, read by offset in the order of the sample plan, decoded, batched.

on disk      tar (walk) -> index (.ddx) -> descriptor (dataset.json); shards writes them, pack converts into them,
             inspect verifies them, show says what they hold
in training  order (which sample when) -> dataset (bytes of a sample) -> image (pixels) -> transforms -> batches
"""
