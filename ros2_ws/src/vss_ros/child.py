"""Start of our child processes, run as a file by `config.child_command`: child.py MODULE [ARGUMENT …].

Neither the current folder nor this one is on the path then, on Python 3.10 too, which knows no PYTHONSAFEPATH. The
arguments stay in `sys.argv`, where Lightning finds the command of its further processes.
"""

import os
import sys

if __name__ == "__main__":
    if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
        del sys.path[0]
    import importlib
    import signal

    # a node waits for its signals, and its children inherit what it blocks
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.environ.pop("VSS_DIES_WITH", ""):
        import ctypes

        parent = os.getppid()
        # PR_SET_PDEATHSIG: a builder must not keep the GPU to itself
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(1)

    sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))
