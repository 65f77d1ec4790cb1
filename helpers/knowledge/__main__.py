import sys

from helpers.knowledge import main

raise SystemExit(main(sys.argv[1:]))
