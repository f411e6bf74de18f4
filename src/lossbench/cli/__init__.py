"""Command line: the first word is a command, or all words are overrides of Hydra."""

from lossbench.cli.dispatch import main
from lossbench.cli.exit_codes import BY_SIGNAL, DONE, INTERRUPTED, MISTAKE, SOME_FAILED
