"""``python -m slo_autoscaler`` and the ``slo-autoscaler`` command."""

import sys

from slo_autoscaler.commands import main

if __name__ == "__main__":
    sys.exit(main())
