"""Bytes to cache: the only writer below a cache root. It sends no request. Modules from the disk upwards:

open_folders, tree, disk                     folders by their descriptors, files in them; copies, disk errors
locks, holder                                flock(2), and who holds a lock
names, record_file                           the names that we write; our JSON files, checked and replaced whole
blob                                         LocalBlob, a verified file on this disk, and how it gets another name
layout, hub_layout, refs, flat_layout        CacheRoot: where its bytes are, how its paths show them, in two layouts
manifest, claims, fetch_notes, known_roots   the records: what a request resolved to, who uses it, what is unfinished
history                                      the record of what the last runs did
root_state                                   RootState, what the records of nested roots say; an entry's evidence
partials, local_blobs                        files that are being fetched; files of a plan that are on this disk already
demand, space                                what a fetch takes on the disk; its reservation
visible_paths, conflicts                     look at paths, show and hide them; two entries that want one path
commit                                       from blobs to a visible, recorded, claimed entry
dead_claims, usage                           which claims count; which files a root has, and what needs them
removal, clean, prune                        remove entries; those of a project, those that nothing needs; the sweep
damage                                       files and records that are not as they were written
"""
