"""The object storage role: keeps the payloads that tasks refer to by id (SPEC section 7.3).

``core`` is the rules, ``contents`` the memory, ``server`` the sockets; ``main`` in ``__main__`` is the command.
"""
