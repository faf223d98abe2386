"""The wire of the Scaler protocol: schema, codec, identifiers, framings, and the life of a task.

Where to start reading: ``message.capnp`` (every message), ``lifecycle.py`` (the task table), then SPEC.md.
"""

SPEC_VERSION = 1
