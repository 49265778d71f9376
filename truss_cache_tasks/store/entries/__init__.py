"""Entries: made visible and recorded, and compared with what was recorded.

commit         from blobs to a visible, recorded, claimed entry
visible_paths  look at paths, show and hide them
conflicts      two entries that want one path
damage         files and records that are not as they were written
"""
