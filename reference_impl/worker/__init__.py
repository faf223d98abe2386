"""The reference worker (SPEC 5 to 8): one agent process that serves several slots.

``core`` says what a slot does, ``agent`` is the shell around the cores, ``zygote`` forks the ``processor`` processes
in which tasks run, ``objects`` is the agent's cache of what it fetched from the object storage.
"""
