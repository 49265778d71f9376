"""Removal of entries: of one project, of what nothing needs.

removal  remove the entries that it is given: the only code that does; the sweep of what killed runs left
clean    those of a project
prune    those that no living claim holds
usage    which files a root has, and what needs them
"""
