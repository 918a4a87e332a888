#!/usr/bin/env python3
"""Check that a server answers with success: `healthy URL` exits with 0 if it does.

It uses only the standard library, since it runs every few seconds. Certificates are verified: FEDLLM_CA_FILE
is the only trusted authority.
"""

import os
import ssl
import sys
import urllib.request


def main() -> int:
    """Send one request with a timeout of five seconds, and return the exit code."""
    url = sys.argv[1] if len(sys.argv) > 1 else ""
    if not url.startswith(("http://", "https://")):
        print("healthy: give it a URL", file=sys.stderr)  # noqa: T201 - its only output
        return 2
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if url.startswith("https://"):
        context = ssl.create_default_context(cafile=os.environ.get("FEDLLM_CA_FILE"))
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=5):
            return 0
    except OSError as error:
        print(f"healthy: {url}: {error}", file=sys.stderr)  # noqa: T201 - its only output
        return 1


if __name__ == "__main__":
    sys.exit(main())
