"""distdl: data-parallel training on sharded corpora, over any number of GPUs and nodes."""

__version__ = "0.1.0"
