"""python -m tests.reliability.outages"""

import sys

from tests.reliability.outages.run import main

sys.exit(main(sys.argv[1:]))
