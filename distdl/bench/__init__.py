"""`distdl bench`: what a step costs here, and how far that is from a loop that does nothing but train."""
