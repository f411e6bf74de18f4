"""The command line: a bare word is a command, anything else is a Hydra override."""

from lossbench.cli.dispatch import main
from lossbench.cli.exit_codes import BY_SIGNAL, DONE, INTERRUPTED, MISTAKE, SOME_FAILED
