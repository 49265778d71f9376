"""Files and folders below a cache root.

open_folders, tree, disk  folders by their descriptors, files in them; copies, disk errors
names, record_file        the names that we write; our JSON files, checked and replaced whole
locks, holder             flock(2), and who holds a lock
"""
