"""Fetch one entry.

fetch                       the order of the steps of a run: status, wait, claim or repair, fetch
online_fetch                list, plan, download, commit; again when other processes interfere
locked_listing              the listing that the lock file stands for
download, budget            the blobs that are missing; room for them
entry_roots, entry_commit   the roots of an entry during its run; its commit
"""
