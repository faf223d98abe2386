"""The fault campaign: thousands of tasks through the reference while its processes are killed and stopped and its
connections cut, at times that a seed gives; every task must be answered once, rightly, and nothing may be left.

``python -m tests.faults`` runs it (``make faults``). What happens when is in ``plan``, what the tasks are in ``work``;
``driver`` is a client that can be killed, ``proxy`` what cuts connections, ``arena`` all processes, ``truth`` what was
said of each task, ``remains`` what may not be left, ``campaign`` the run, ``report`` what is printed.
"""
