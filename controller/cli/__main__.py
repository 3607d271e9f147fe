"""``python -m mobifarm.controller.cli`` is ``mobifarm``."""

from mobifarm.controller.cli.main import main

main()
