"""Who may take part (SPEC section 11): key files, the list of allowed keys, CURVE for the sockets of ZeroMQ, TLS for
the object storage.

Without keys nothing in here runs. ``keys`` reads and makes key files; ``allowed`` is the list that scheduler and object
storage go by; ``settings`` has the options of the roles. What a connected peer may do is decided by ``admission``
(scheduler) and ``reference_impl.object_storage.guard``, both pure.
"""
