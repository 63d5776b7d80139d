"""`python -m ssmbench` is `ssmbench`."""

from __future__ import annotations

import sys

from ssmbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
