"""Bytes to cache: the only writer below a cache root. It sends no request. Packages, each imports those below it alone:

entries  made visible and recorded; compared with what was recorded
removal  entries that go: a project's, those that nothing needs; the sweep
blobs    files that are being fetched, files that are here already, the space that they take
records  what a request resolved to, who uses it, what is unfinished
layouts  where the bytes of a root are, and how its paths show them
files    files and folders by descriptors, names, locks, our JSON files
"""
