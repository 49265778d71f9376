"""The records: what a request resolved to, who uses it, what is unfinished.

manifest, claims, fetch_notes, known_roots  one kind of record each
history      the record of what the last runs did
dead_claims  which claims count
root_state   RootState, what the records of nested roots say
evidence     the records of one entry and the stat of its files
"""
