"""`distdl doctor`: is this machine, and are the links to the others, fit to train on; and what to do where not.

devices, machine, disk, services  (each check is a function that takes what it judges, and returns a Check)
network   which interface leads to the others
between   all workers together: who reaches whom, how fast, and whose clock is off
"""
