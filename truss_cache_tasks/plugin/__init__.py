"""The edge: doit tasks and commands, the console script, the display. The only importer of doit."""
