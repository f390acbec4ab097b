#!/refold/bin/python
"""Asks a service whether it is ready, prints its answer, and exits with 1 if it is not. Run by the health checks.

`docker inspect` shows the answer, so that one can see what is missing.
"""

import sys
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

SECONDS = 4

if __name__ == "__main__":
    try:
        with build_opener(ProxyHandler({})).open(sys.argv[1], timeout=SECONDS) as answer:
            print(answer.read().decode())
    except HTTPError as error:
        sys.exit(f"{error.code} {error.read().decode(errors='replace')}")
    except OSError as error:
        sys.exit(str(error))
