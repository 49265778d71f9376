"""What every front end needs, without doit: the workspace, the display, signals, reports, and `truss-cache`."""
