"""The roles of the Scaler protocol: scheduler, worker, client, object storage, and an embedded cluster of them.

Each role is a pure core (``core.py``: events in, instructions out; no sockets, clocks, threads or randomness) in a
thin shell (``server.py`` and friends) that owns sockets, processes and time.
"""
