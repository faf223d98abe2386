"""Drivers: processes that do with a client library what the engine says, in JSON lines (schema/driver-1.json)."""
