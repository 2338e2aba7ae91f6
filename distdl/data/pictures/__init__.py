"""From a file's bytes to a row of a batch, and what is done to rows on the device: decoding, geometry, colour."""
