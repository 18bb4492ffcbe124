"""`python -m qdbev_deploy.cli`."""

import sys

from qdbev_deploy.cli import main

sys.exit(main())
