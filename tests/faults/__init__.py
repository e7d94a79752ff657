"""Faults of the machine: full disks, killed processes, files that change, memory that runs out, streams that are closed."""
