"""Fetch several URLs at once: a future for each, and `result()` blocks until that one is done.

Run it: python examples/fetch_urls.py https://www.python.org/ https://docs.python.org/3/
"""

import sys
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import urlopen

from treadle import Pool

PATIENCE = 10  # seconds a server may be silent
CEILING = 5_000_000  # bytes read of one page


def fetch(url: str) -> bytes:
    try:
        with urlopen(url, timeout=PATIENCE) as page:
            body: bytes = page.read(CEILING)
            return body
    except HTTPError as error:
        error.close()  # it is the page of a 404 too, and would stay open
        raise


failed = 0
with Pool(16, name="fetch") as pool:
    futures = [(url, pool.submit(fetch, url)) for url in sys.argv[1:]]  # all are under way from here
    for url, future in futures:
        try:
            print(f"{url}: {len(future.result())} bytes", flush=True)
        except (OSError, HTTPException, ValueError) as error:  # raised in its thread, and again here: harms no other
            print(f"{url}: failed: {error}", flush=True)
            failed += 1
sys.exit(1 if failed else 0)
