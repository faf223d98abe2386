"""What comes before the end of a cluster: its tasks may end first; and the end of one that this machine did not start
(SPEC LIV-10)."""

from __future__ import annotations

import time

from protocol.control import Follow, Selection
from scalercli import link, settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode
from scalercli.places import Places


def drain(places: Places, seconds: float) -> None:
    """Waits until the session has no task that is not over, also none that came meanwhile, or for so long."""
    agent = link.find_agent(places)
    if agent is None:
        return
    deadline = time.monotonic() + seconds
    ended = True
    try:
        while ended:  # another look, whether others have come
            number = agent.send("follow", Follow(Selection(all=True, living=True)))
            replies = list(link.replies(agent, number, deadline))
            ended = any(reply.rows for reply in replies)
    except link.TimedOut:
        pass  # what is left is canceled, and that is said then
    finally:
        agent.close()


def shut_down(address: str) -> None:
    """Asks the scheduler to end with all its workers. Raises CliError: refused, unreachable, or no answer."""
    from reference_impl.access.keys import KeyFileError
    from reference_impl.client import Client  # not needed by other commands
    from reference_impl.errors import ClusterProtected, SchedulerUnreachable, StorageUnreachable

    try:
        keys = settings.keys(address)
        client = Client(address, key_file=keys.key_file or None, server_key=keys.server_key or None)
        try:
            client.shutdown_cluster()
        finally:
            client.close()
    except KeyFileError as error:
        raise CliError(str(error), error.hint) from None
    except ClusterProtected as error:
        raise CliError(str(error), "end it where it was started", ExitCode.REFUSED) from None
    except (SchedulerUnreachable, StorageUnreachable) as error:
        raise CliError(str(error), "scalercli doctor looks for the reason", ExitCode.UNREACHABLE) from None
    except TimeoutError as error:
        raise CliError(str(error), "it may be busy: try again", ExitCode.TIMED_OUT) from None
