"""Shards that are not in one local folder: on a web server, in S3, in several places.

places      what data.train.shards may name -> folders, and the tars in them that are asked for
store       one folder: size, read(range), names; as files, http or s3
patience    a store's reads, repeated until they succeed or a deadline passes; so many at a time to a host
listing     dataset.json and the indexes beside the tars -> shards
cache       a folder that the workers of a node share: whole shards, parts of shards, how much of it all
upcoming    what a node reads next, out of the sample plan
fetch       threads that bring whole shards into the cache, those first that are needed first
streaming   a sample's bytes: from the cache, or else at once by their byte range
stage       the same, but before training
"""
