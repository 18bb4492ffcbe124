"""The program: `qdbev-deploy`, and `python -m qdbev_deploy`."""

import signal
import sys

# Until the command runs there is nothing to tidy up: Ctrl-C ends the imports at once, and without a traceback.
_IS_PROGRAM = __name__ == "__main__" or sys.argv[0].endswith("qdbev-deploy")
if _IS_PROGRAM and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from qdbev_deploy.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
