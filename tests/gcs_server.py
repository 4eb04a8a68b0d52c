"""A server of Google's JSON API for storage, as far as gcsfs needs it here; objects in memory.

It has one bucket. With it the requests that gcsfs makes are run, not what Google makes of them.
"""

import base64
import email
import email.policy
import http.server
import json
import threading
import urllib.parse
import zlib


class Server(http.server.ThreadingHTTPServer):
    """Objects by name in `objects`; starts at once."""

    daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", port), _Handler)
        self.objects = {}
        self.turn = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()


def _described(name, content):
    checksum = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
    return {
        "kind": "storage#object", "name": name, "bucket": "bucket", "size": str(len(content)),
        "generation": "1", "etag": checksum, "updated": "2026-01-01T00:00:00.000Z",
    }  # fmt: skip


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, content=b""):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def _missing(self):
        self._answer(404, {"error": {"code": 404, "message": "No such object"}})

    def _asked(self):
        """-> (the part of the path after ".../o/", query)."""
        url = urllib.parse.urlsplit(self.path)
        query = {name: values[0] for name, values in urllib.parse.parse_qs(url.query).items()}
        return url.path.partition("/b/bucket/o")[2].lstrip("/"), query

    def do_GET(self):
        name, query = self._asked()
        objects, name = self.server.objects, urllib.parse.unquote(name)
        if not name:
            found = sorted(x for x in objects if x.startswith(query.get("prefix", "")))
            self._answer(200, {"items": [_described(x, objects[x]) for x in found]})
        elif name not in objects:
            self._missing()
        elif query.get("alt") == "media" or self.path.startswith("/download"):
            content, status = objects[name], 200
            if wanted := self.headers.get("Range"):
                first, _, last = wanted.partition("=")[2].partition("-")
                content, status = content[int(first) : int(last) + 1 if last else None], 206
            self._answer(status, content)
        else:
            self._answer(200, _described(name, objects[name]))

    def do_POST(self):
        name, query = self._asked()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/rewriteTo/b/bucket/o/" in name:
            source, _, target = name.partition("/rewriteTo/b/bucket/o/")
            content = self.server.objects[urllib.parse.unquote(source)]
            return self._store(urllib.parse.unquote(target), content, {"done": True})
        head = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n"
        parsed = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        described, content = parsed.iter_parts()
        name = json.loads(described.get_payload(decode=True))["name"]
        with self.server.turn:
            if query.get("ifGenerationMatch") == "0" and name in self.server.objects:
                return self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
            self._store(name, content.get_payload(decode=True), {})

    def _store(self, name, content, more):
        self.server.objects[name] = content
        self._answer(200, _described(name, content) | more)

    def do_DELETE(self):
        name, _ = self._asked()
        if self.server.objects.pop(urllib.parse.unquote(name), None) is None:
            return self._missing()
        self._answer(204)
