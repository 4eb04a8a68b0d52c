"""Google Cloud's notice that it takes a machine away, some 30 s before, as a SIGTERM.

The machine itself is told by ACPI at the same time, and its shutdown reaches a process as SIGTERM
where systemd or a kubelet started it. Where something else did, such as a scheduler or a
container's engine, a signal may come late or be SIGKILL. A notice of maintenance is no reason to
stop yet: it comes hours before, and the machine is then shut down like this.
"""

import contextlib
import http.client
import os
import signal
import threading
import time
from pathlib import Path

from jax_pix2pix.logs.messages import messages

PRODUCT = Path("/sys/class/dmi/id/product_name")  # "Google Compute Engine"
NAME = "/computeMetadata/v1/instance/preempted"
VARIABLE = "GCE_METADATA_HOST"  # of Google's own libraries
ANSWER_SECONDS, RETRY_SECONDS = 300, 10


def watch(product=PRODUCT):
    """Begins to listen for the notice; on other machines it does nothing.

    Args:
        product: file that names the kind of the machine.
    """
    host = os.environ.get(VARIABLE)
    if not host:
        with contextlib.suppress(OSError):
            host = product.read_text("utf-8").startswith("Google") and "metadata.google.internal"
    if host:
        threading.Thread(target=_listen, args=(host,), daemon=True).start()


def _listen(host):
    etag = "0"  # differs from any, so that the first answer comes at once
    while True:
        try:
            value, etag = _ask(host, etag)
        except (OSError, http.client.HTTPException):
            time.sleep(RETRY_SECONDS)
            continue
        if value == "TRUE":
            messages.warning("Google Cloud is about to take this machine away: the run stops")
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(1)  # in case a server does not wait


def _ask(host, etag):
    """-> (whether the machine is being taken away, "TRUE" or "FALSE"; the answer's etag)."""
    # The server answers when the value has another etag, or after that time.
    wait = f"?wait_for_change=true&timeout_sec={ANSWER_SECONDS}&last_etag={etag}"
    with contextlib.closing(
        http.client.HTTPConnection(host, timeout=ANSWER_SECONDS + RETRY_SECONDS)
    ) as connection:
        connection.request("GET", NAME + wait, headers={"Metadata-Flavor": "Google"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(f"HTTP status {answer.status}")
        return answer.read(100).decode("ascii", "replace").strip(), answer.getheader("ETag", "")
