"""`distdl bench`: what a step costs here, and how far that is from a loop that does nothing but train; and what the
collectives cost, beside a copy in memory."""
