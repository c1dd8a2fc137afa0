"""A small http server on 127.0.0.1 for tests: it serves what a test puts in `pages`, well or badly, and counts."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """An answer. `short` bytes are held back at the end; `fails` times it is `fail_status`; `drip_s` between pieces."""

    body: bytes = b""
    type: str = "video/mp4"
    status: int = 200
    short: int = 0
    fails: int = 0
    fail_status: int = 503
    wait_s: float = 0.0
    drip_s: float = 0.0
    length: bool = True  # whether Content-Length is sent
    headers: dict = field(default_factory=dict)


class Loopback:
    """`with Loopback() as server: server.pages["/a.mp4"] = Page(body); server.url("/a.mp4")`; `asked` lists GETs."""

    def __init__(self):
        self.pages: dict[str, Page] = {}
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def _handler(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self._answer(False)

            def do_GET(self):
                outer.asked.append(self.path)
                self._answer(True)

            def _answer(self, with_body: bool):
                page = outer.pages.get(self.path, Page(b"nothing here", "text/plain", 404))
                time.sleep(page.wait_s)
                if page.fails:
                    page.fails -= 1
                    page = Page(b"later", "text/plain", page.fail_status, headers=page.headers)
                self.send_response(page.status)
                self.send_header("Content-Type", page.type)
                if page.length:
                    self.send_header("Content-Length", str(len(page.body)))
                for name, value in page.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    if with_body:
                        self._send(page)
                except OSError:
                    pass  # the client had enough

            def _send(self, page: Page):
                body = page.body[: len(page.body) - page.short]
                size = 256 if page.drip_s else max(len(body), 1)
                for start in range(0, len(body), size):
                    self.wfile.write(body[start : start + size])
                    self.wfile.flush()
                    time.sleep(page.drip_s)

        return Handler
