"""python -m recall: the same as the command `recall`."""

import sys

from recall import main

sys.exit(main())
