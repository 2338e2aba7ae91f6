"""The kinds of corpora that `distdl data pack` reads, a file each, and how they are written."""
