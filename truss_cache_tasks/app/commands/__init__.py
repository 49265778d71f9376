"""The commands of `truss-cache`: their table, their command line, and what each of them does."""
