import sys

from helpers.series.run import main

sys.exit(main())
