import sys

from helpers.workshop.status import main

sys.exit(main())
