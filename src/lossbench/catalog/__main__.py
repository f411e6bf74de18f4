"""`python -m lossbench.catalog > docs/losses.md`: the catalog as a page of the docs."""

import sys

from lossbench.catalog.markdown import document

if __name__ == "__main__":
    sys.stdout.write(document())
