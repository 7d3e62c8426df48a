"""`python -m session_service.host`: the privileged process by itself, as `app` starts it."""

import sys

from session_service.host.main import main

if __name__ == "__main__":
    sys.exit(main())
