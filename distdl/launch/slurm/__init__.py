"""Jobs of Slurm's: the script, and what is kept beside it."""
