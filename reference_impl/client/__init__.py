"""The client library: submit tasks to a scheduler, get futures (SPEC sections 5 to 9).

>>> from reference_impl.client import Client
>>> with Client("tcp://127.0.0.1:2345") as client:   # doctest: +SKIP
...     print(client.submit(pow, 2, 10).result())
1024

``client`` is what users see, ``future`` the futures, ``core`` the behaviour without sockets and threads, ``objects``
what lies in the storage, ``shell`` the I/O thread.
"""

from reference_impl.client.client import Client
from reference_impl.client.future import RawResult, ScalerFuture
from reference_impl.client.instructions import CancelAnswer

__all__ = ["Client", "ScalerFuture", "RawResult", "CancelAnswer"]
