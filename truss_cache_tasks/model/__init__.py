"""Values and rules, without I/O: requests and keys, listings, patterns, plans, digests, records, status."""
