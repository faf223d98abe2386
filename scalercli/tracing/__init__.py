"""``scalercli trace``: a proxy that records what roles say to each other, and what can be told from it.

``proxy`` forwards and taps, ``record`` is one frame that passed, ``decode`` reads it, ``observer`` follows the tasks
through ``protocol.lifecycle`` and says what breaks SPEC.md, ``views`` and ``page`` show it all, ``scenario`` makes a
conformance scenario of it.
"""
