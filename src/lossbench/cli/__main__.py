"""Runs the command `lossbench` for `python -m lossbench.cli`."""

import sys

from lossbench.cli import main

sys.exit(main())
