"""`python -m invariances`."""

import sys

from invariances.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
