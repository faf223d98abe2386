"""The session agent: one process per user and cluster that owns the client and remembers its tasks."""
