"""A trained network put to use: what it says of files, and its weights in the forms that other programs read."""
