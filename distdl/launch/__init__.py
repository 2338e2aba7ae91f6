"""How workers are started and watched over. Free of torch: the supervisor outlives whatever its workers run into."""
