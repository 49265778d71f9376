"""doit tasks with their actions and uptodate, and doit commands. The only package that imports doit."""
