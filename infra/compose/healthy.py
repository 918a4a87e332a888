#!/usr/bin/env python3
"""Whether a server answers with success: `healthy URL`.

The exit code says it. The standard library alone, since it runs every few seconds. Certificates are checked:
FEDLLM_CA_FILE names the only authority that is believed.
"""

import os
import ssl
import sys
import urllib.request


def main() -> int:
    """Ask once, for five seconds at most."""
    url = sys.argv[1] if len(sys.argv) > 1 else ""
    if not url.startswith(("http://", "https://")):
        print("healthy: give it a URL", file=sys.stderr)  # noqa: T201 - its only words
        return 2
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if url.startswith("https://"):
        context = ssl.create_default_context(cafile=os.environ.get("FEDLLM_CA_FILE"))
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=5):
            return 0
    except OSError as error:
        print(f"healthy: {url}: {error}", file=sys.stderr)  # noqa: T201 - its only words
        return 1


if __name__ == "__main__":
    sys.exit(main())
