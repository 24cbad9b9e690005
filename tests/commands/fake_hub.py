"""A hub on this machine: the few calls of its API by which a folder is uploaded, and what was uploaded."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REGULAR = (".json", ".md", ".jinja", ".txt", "LICENSE")  # everything else is stored as LFS objects are


class Hub:
    """repositories: name → path → content. private: the names of those that are. refused: token → the status and the
    sentence that it is answered with."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.commits: list[dict] = []
        self.cards: list[str] = []  # that were handed in to be checked
        self.refused: dict[str, tuple[int, str]] = {}
        self.endpoint = ""


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, value: object, status: int = 200, **headers: str) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def known(self) -> bool:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, sentence = hub.refused.get(token, (200, ""))
            if status == 200:
                return True
            self.answer({"error": sentence}, status, X_Error_Message=sentence)
            return False

        def do_PUT(self) -> None:
            content = self.body()
            oid = self.path.rpartition("/")[2]
            if hashlib.sha256(content).hexdigest() != oid:
                return self.answer({"error": "other bytes"}, 400)
            hub.objects[oid] = content
            return self.answer({})

        def do_GET(self) -> None:
            name = self.path.partition("/api/models/")[2].partition("/tree/")[0]
            if not self.known():
                return None
            if name not in hub.repositories:
                return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            if "/tree/" not in self.path:
                return self.answer({"id": name})
            return self.answer(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in hub.repositories[name].items()
                ]
            )

        def do_POST(self) -> None:
            body = self.body()
            if not self.known():
                return None
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                url = f"{hub.endpoint}/{name}"
                if name in hub.repositories:
                    return self.answer({"error": "You already created it", "url": url}, 409)
                hub.repositories[name] = {}
                if asked.get("visibility") == "private" or asked.get("private"):
                    hub.private.add(name)
                return self.answer({"url": url, "name": name, "id": name})
            if self.path == "/api/validate-yaml":
                hub.cards.append(json.loads(body)["content"])
                return self.answer({"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                files = json.loads(body)["files"]
                modes = ["regular" if each["path"].endswith(REGULAR) else "lfs" for each in files]
                return self.answer(
                    {
                        "files": [
                            {"path": each["path"], "uploadMode": mode, "shouldIgnore": False}
                            for each, mode in zip(files, modes, strict=True)
                        ]
                    }
                )
            if self.path == "/me/full.git/info/lfs/objects/batch":
                return self.answer({"error": "No room"}, 507, X_Error_Message="No room")
            if self.path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(body)["objects"]
                where = {
                    each["oid"]: {"upload": {"href": f"{hub.endpoint}/lfs/{each['oid']}"}} for each in objects
                }
                there = [each for each in objects if each["oid"] in hub.objects]
                new = [
                    {**each, "actions": where[each["oid"]]}
                    for each in objects
                    if each["oid"] not in hub.objects
                ]
                return self.answer({"transfer": "basic", "objects": [*there, *new]})
            if "/commit/" in self.path:
                return self.commit(self.path.partition("/api/models/")[2].partition("/commit/")[0], body)
            return self.answer({"error": self.path}, 404)

        def commit(self, name: str, body: bytes) -> None:
            lines = [json.loads(line) for line in body.splitlines()]
            files = hub.repositories[name]
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    hub.commits.append({"repository": name, **value})
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            oid = hashlib.sha1(body).hexdigest()
            self.answer(
                {"success": True, "commitOid": oid, "commitUrl": f"{hub.endpoint}/{name}/commit/{oid}"}
            )

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
