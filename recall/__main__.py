"""python -m recall: the same as the command `recall`."""

import sys

from recall import main

if __name__ == "__main__":
    sys.exit(main())
