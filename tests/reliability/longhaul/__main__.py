"""python -m tests.reliability.longhaul"""

import sys

from tests.reliability.longhaul.run import main

sys.exit(main(sys.argv[1:]))
