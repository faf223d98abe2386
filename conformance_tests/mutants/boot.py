"""The first lines of a worker's zygote that has the fault of its agent, too (see ``run.py``)."""

import os
import sys

sys.path[:] = os.environ.pop("_SCALER_WORKER_PATH").split(os.pathsep)

from conformance_tests.mutants import catalog  # noqa: E402
from conformance_tests.mutants.model import applied  # noqa: E402
from reference_impl.worker.zygote import main  # noqa: E402

with applied(catalog.find("worker", os.environ.pop("_SCALER_MUTANT"))):
    main(int(sys.argv[1]))
