"""The display of a run: one Progress for each entry, and what shows it.

display   the one Display of a process: a block on a terminal, else lines
progress  what the events of an entry add up to
lines     a line of an event, or of a Progress
live      the block of a terminal
ci        the words of CI services: groups, annotations, job summaries
"""
