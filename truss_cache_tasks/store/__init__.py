"""bytes -> cache: the only writer below a cache root. It asks no network."""
