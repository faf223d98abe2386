"""Ends a cluster that this machine did not start (SPEC LIV-10)."""

from __future__ import annotations

from scalercli import settings
from scalercli.errors import CliError
from scalercli.exits import ExitCode


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
