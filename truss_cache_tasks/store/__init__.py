"""Bytes to cache: the only writer below a cache root. It sends no request. Modules from the disk upwards:

open_folders, tree, disk, locks              folders by their descriptors, files in them; copies, disk errors; flock(2)
names, record_file                           the names that we write; our JSON files, checked and replaced whole
blob                                         LocalBlob, a verified file on this disk, and how it gets another name
layout, hub_layout, refs, flat_layout        CacheRoot: where its bytes are, how its paths show them, in two layouts
manifest, claims, fetch_notes, known_roots   the records: what a request resolved to, who uses it, what is unfinished
root_state                                   RootState, what the records of nested roots say; an entry's evidence
partials, local_blobs                        files that are being fetched; files of a plan that are on this disk already
visible_paths, conflicts                     look at paths, show and hide them; two entries that want one path
commit, clean                                from blobs to a visible, recorded, claimed entry, and back; the sweep
"""
