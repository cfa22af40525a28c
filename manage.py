#!/usr/bin/env python
"""Django's command line for the task mesh."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshsite.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as exc:
        print(f"settings: {exc}", file=sys.stderr)
        sys.exit(2)  # as for a wrong option: nobody need try again
    except KeyboardInterrupt:
        sys.exit(130)  # while Python still loads; commands end by themselves


if __name__ == "__main__":
    main()
