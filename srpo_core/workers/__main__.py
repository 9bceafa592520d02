"""`accelerate launch -m srpo_core.workers JOB_FILE`: do the jobs of one file, in order, on this process's device.

Exit status 0 done, 1 the work failed, 2 unusable input, 143 stopped by SIGTERM with a checkpoint written.
"""

import ctypes
import os
import signal
import sys

from srpo_core.workers.progress import LAUNCHED_BY


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM when the launcher dies, so that nothing trains on as an orphan; end here if it has died already."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG
    adopted = os.getppid() == 1 and os.environ.get(LAUNCHED_BY) != "1"  # in a container the launching process may be process 1
    if os.getppid() != parent or adopted:
        os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    _die_with_parent()  # before the imports below, which take seconds
    from srpo_core.workers.dispatch import main

    status = main(sys.argv[1])
    sys.stdout.flush()
    # _exit: interpreter teardown of a process group takes a second and can hang when a peer has died
    os._exit(status)
