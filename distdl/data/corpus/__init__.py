"""Samples on disk: tars, their indexes, and the folders of shards or images that make up a corpus."""
