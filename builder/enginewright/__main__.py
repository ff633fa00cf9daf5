"""`python -m enginewright`: the same as the command `enginewright`."""

from __future__ import annotations

import sys

from enginewright.cli import main

sys.exit(main())
