"""Google Cloud's notice stops a run; a server of ours has the place of the machine's."""

import http.server
import signal
import threading
import time

import pytest

from jax_pix2pix.runs.processes import google_notice


class Metadata(http.server.BaseHTTPRequestHandler):
    """Answers as Google's does: at once, or when the value is no more the one of the etag."""

    def do_GET(self):
        assert self.headers["Metadata-Flavor"] == "Google"
        assert self.path.startswith("/computeMetadata/v1/instance/preempted?wait_for_change=true&")
        if "last_etag=first" in self.path:
            self.server.taken.wait(60)
        value, etag = (b"TRUE", "second") if self.server.taken.is_set() else (b"FALSE", "first")
        self.send_response(200)
        self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(value)

    def log_message(self, *_):
        pass


@pytest.fixture
def metadata(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        server.taken = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(google_notice.VARIABLE, f"127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which is not asked
        yield server
        server.shutdown()


@pytest.fixture
def signalled():
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    yield came
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("late", [0, 0.3], ids=["at the start", "later"])
def test_the_notice_is_a_sigterm(metadata, signalled, late):
    threading.Timer(late, metadata.taken.set).start()
    if not late:
        metadata.taken.wait()
    google_notice.watch()
    start = time.monotonic()
    assert not late or not signalled.wait(late / 2)
    assert signalled.wait(20) and time.monotonic() - start < 10


def test_other_machines_are_left_alone(monkeypatch, tmp_path):
    monkeypatch.delenv(google_notice.VARIABLE, raising=False)
    (tmp_path / "product").write_text("Some Laptop\n")
    threads = threading.active_count()
    google_notice.watch(tmp_path / "product")
    google_notice.watch(tmp_path / "missing")
    assert threading.active_count() == threads
