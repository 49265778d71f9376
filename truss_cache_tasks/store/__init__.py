"""Bytes to cache: the only writer below a cache root. Modules from the disk upwards.

| module | |
|---|---|
| `tree`, `disk`, `locks` | files by descriptors of real folders; copies, hashes and errors of the disk; flock(2) |
| `names`, `record_file` | every name that we write; our JSON files, read with each field checked, replaced whole |
| `blob` | `LocalBlob`, a verified file on this disk, and how it gets another name |
| `layout`, `hub_layout`, `flat_layout` | `CacheRoot`, and where its bytes are and how its paths show them, in two layouts |
| `manifest`, `claims`, `fetch_notes`, `known_roots` | the records: what a request resolved to, who uses it, what is unfinished |
| `root_state` | `RootState`, what the records of a root say, and of the roots that it nests with; an entry's evidence |
| `partials`, `local_blobs` | files on their way; files of a plan that are on this disk already |
| `visible_paths`, `conflicts` | look at paths, show and hide them; two entries that want one path |
| `commit`, `clean` | from blobs to a visible, recorded and claimed entry; back again; sweep what nothing owns |
"""
