"""A local HTTP server whose files can be had in every way a server may go wrong."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
PIECE = 100_000  # bytes after which a connection is cut


class Server:
    """Its address; the requests that came, each as path, Range and bytes sent; how it behaves, by path."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        self.sent = 0
        self.files: dict[str, bytes] = {}

    def ranges(self) -> list[str]:
        return [asked for _, asked in self.requests]


@contextmanager
def serving() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            way = self.path.strip("/").partition(".")[0]
            asked = self.headers.get("Range", "")
            state.requests.append((way, asked))
            content = state.files.get(self.path, CONTENT)
            self.close_connection = True
            getattr(self, f"_{way.replace('-', '_')}", self._plain)(content, asked)

        def _answer(self, status: int, length: int | None, body: bytes, **headers: str) -> None:
            self.send_response(status)
            kind = headers.pop("Content_Type", "application/octet-stream")
            self.send_header("Content-Type", kind)
            if length is not None:
                self.send_header("Content-Length", str(length))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            state.sent += len(body)  # before anyone can have read it all
            self.wfile.write(body)

        def _part(self, content: bytes, asked: str, most: int | None = None, tag: str = '"one"') -> None:
            """An honest answer, of at most so many bytes; If-Range is obeyed."""
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if self.headers.get("If-Range", tag) != tag:
                start = 0
            rest = content[start:]
            headers = {"ETag": tag}
            if start >= len(content):
                return self._answer(416, 0, b"", Content_Range=f"bytes */{len(content)}")
            if start:
                headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(206 if start else 200, len(rest), rest[:most], **headers)
            return None

        def _plain(self, content: bytes, asked: str) -> None:
            self._part(content, asked)

        def _cuts(self, content: bytes, asked: str) -> None:
            self._part(content, asked, PIECE)

        def _cuts_without_a_tag(self, content: bytes, asked: str) -> None:
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            more = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            self._answer(206 if start else 200, len(content) - start, content[start : start + PIECE], **more)

        def _ignores_ranges(self, content: bytes, asked: str) -> None:
            first = sum(way == "ignores-ranges" for way, _ in state.requests) == 1
            self._answer(200, len(content), content[: PIECE if first else None], ETag='"one"')

        def _stalls(self, content: bytes, asked: str) -> None:
            self._answer(200, len(content), content[:10] if not asked else b"", ETag='"one"')

        def _promises_more(self, content: bytes, asked: str) -> None:
            """The file's end is never served."""
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            total = len(content) + 1000
            more = {"Content_Range": f"bytes {start}-{total - 1}/{total}"} if start else {}
            self._answer(206 if start else 200, total - start, content[start:], ETag='"one"', **more)

        def _promises_less(self, content: bytes, asked: str) -> None:
            self._answer(200, len(content) - 1000, content, ETag='"one"')

        def _changes(self, content: bytes, asked: str) -> None:
            """Another file with another tag after the first piece."""
            if len(state.requests) == 1:
                self._answer(200, len(content), b"x" * PIECE, ETag='"old"')
            else:
                self._part(content, asked, tag='"new"')

        def _changes_and_hides_it(self, content: bytes, asked: str) -> None:
            """Says that it is the same file, of another length."""
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if len(state.requests) == 1:
                return self._answer(200, len(content) + 7, content[:PIECE], ETag='"one"')
            more = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            self._answer(206 if start else 200, len(content) - start, content[start:], ETag='"one"', **more)
            return None

        def _another_part(self, content: bytes, asked: str) -> None:
            if not asked:
                return self._part(content, asked, PIECE)
            self._answer(206, 100, content[:100], ETag='"one"', Content_Range=f"bytes 0-99/{len(content)}")
            return None

        def _page(self, content: bytes, asked: str) -> None:
            self._answer(200, 20, b"<html>log in</html> ", Content_Type="text/html; charset=utf-8")

        def _busy(self, content: bytes, asked: str) -> None:
            if len(state.requests) < 3:
                self._answer(503, 0, b"", Retry_After="7")
            else:
                self._part(content, asked)

        def _gone(self, content: bytes, asked: str) -> None:
            self._answer(404, 0, b"")

        def _moved(self, content: bytes, asked: str) -> None:
            self._answer(302, 0, b"", Location=f"{state.url}/plain.bin")

        def _to_a_file(self, content: bytes, asked: str) -> None:
            self._answer(302, 0, b"", Location="file:///etc/hostname")

        def _chunked(self, content: bytes, asked: str) -> None:
            """Without a length; the first time it breaks off within a chunk."""
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            whole = len(state.requests) > 1
            self.wfile.write(b"%x\r\n" % len(content) + content[: None if whole else PIECE])
            if whole:
                self.wfile.write(b"\r\n0\r\n\r\n")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
