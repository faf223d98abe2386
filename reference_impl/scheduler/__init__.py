"""The reference scheduler: ``core.py`` decides, ``server.py`` talks."""
