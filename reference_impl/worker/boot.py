"""The zygote's first lines: run as a script, so that ``ps`` shows what it is, with the import path of its agent."""

import os
import sys

sys.path[:] = os.environ.pop("_SCALER_WORKER_PATH").split(os.pathsep)

from reference_impl.worker.zygote import main  # noqa: E402

main(int(sys.argv[1]))
