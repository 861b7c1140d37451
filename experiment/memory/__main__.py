"""python -m experiment.memory recall|gradient|horizon"""

import sys

from experiment.memory.probes import main

sys.exit(main(sys.argv[1:]))
