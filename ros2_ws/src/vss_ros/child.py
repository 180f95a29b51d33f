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

    sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))
