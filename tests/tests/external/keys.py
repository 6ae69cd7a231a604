"""An S3 server, moto, that writes down with which key each request is signed.

    keys.py PORT FILE

It has one bucket, `bucket`.
"""

import re
import sys
import threading
import time
import urllib.request

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

port, file = int(sys.argv[1]), sys.argv[2]
moto = DomainDispatcherApplication(create_backend_app)


def noted(environ, start):
    signed = re.search("Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    if signed:
        with open(file, "a") as keys:
            keys.write(signed.group(1) + "\n")
    return moto(environ, start)


def bucket():
    while True:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
            return urllib.request.urlopen(request)
        except OSError:
            time.sleep(0.1)


threading.Thread(target=bucket).start()
run_simple("127.0.0.1", port, noted, threaded=True)
