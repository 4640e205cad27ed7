import sys

from helpers.stack.control import main

sys.exit(main())
