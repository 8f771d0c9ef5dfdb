"""`python -m flota.cli` is `flota`."""

import sys

from flota.cli.main import main

sys.exit(main())
