"""`python -m vist.cli` is `vist`."""

import sys

from vist.cli import main

sys.exit(main())
