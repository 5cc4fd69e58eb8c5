"""python -m tests.torture"""

import sys

from tests.torture.run import main

sys.exit(main(sys.argv[1:]))
