"""A stand-in for the Hub's HTTP interface: as much of it as pushing and pulling a model needs."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator


class Hub(http.server.ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        commits: of each repository the commits in order, each all its files by name.
        stored: large files by their SHA-256, which go a way of their own.
        requests: (method, path) of each, in order.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.stored: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def revision(self, repository: str, name: str) -> int | None:
        """The number of the commit of that name."""
        numbers = range(len(self.commits[repository]))
        names = {commit_name(repository, number): number for number in numbers}
        return {**names, "main": len(numbers) - 1}.get(name)


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers for as long as the context lasts."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def commit_name(repository: str, number: int) -> str:
    """40 hexadecimal digits."""
    return hashlib.sha1(f"{repository} {number}".encode()).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/repos/create":
            given = json.loads(body)
            repository = f"{given['organization']}/{given['name']}"
            known = repository in self.server.commits
            self.server.commits.setdefault(repository, [])
            self._json({"url": f"{self.server.url}/{repository}"}, 409 if known else 200)
        elif self.path == "/api/validate-yaml":
            self._json({})
        elif "/preupload/" in self.path:
            self._json({"files": [
                {"path": file["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                for file in json.loads(body)["files"]]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            self._json({"transfer": "basic", "objects": [
                {**entry, "actions": {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]]})
        else:
            repository = re.fullmatch(r"/api/models/(.*)/commit/main", self.path)[1]
            self._commit(repository, [json.loads(line) for line in body.splitlines()])

    def _commit(self, repository: str, lines: list[dict]) -> None:
        commits = self.server.commits[repository]
        files = dict(commits[-1]) if commits else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        commits.append(files)
        name = commit_name(repository, len(commits) - 1)
        self._json({
            "commitOid": name, "commitUrl": f"{self.server.url}/{repository}/commit/{name}"})

    def do_PUT(self) -> None:
        body = self._body()
        assert hashlib.sha256(body).hexdigest() == self.path.removeprefix("/lfs/")
        self.server.stored[self.path.removeprefix("/lfs/")] = body
        self._json({})

    def do_HEAD(self) -> None:
        self._file(with_content=False)

    def do_GET(self) -> None:
        self._file(with_content=True)

    def _file(self, with_content: bool) -> None:
        self._body()
        match = re.fullmatch(r"/(.*)/resolve/([^/]*)/(.*)", self.path)
        if not match:
            # The library asks about itself, too.
            return self._json({}, 404)
        repository, revision, name = match.groups()
        if repository not in self.server.commits:
            return self._json({}, 404, {"X-Error-Code": "RepoNotFound"})
        number = self.server.revision(repository, revision)
        if number is None:
            return self._json({}, 404, {"X-Error-Code": "RevisionNotFound"})
        headers = {"X-Repo-Commit": commit_name(repository, number)}
        content = self.server.commits[repository][number].get(name)
        if content is None:
            return self._json({}, 404, {**headers, "X-Error-Code": "EntryNotFound"})
        headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        self._answer(200, headers, content, with_content)

    def _body(self) -> bytes:
        self.server.requests.append((self.command, self.path))
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, value: dict, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._answer(status, headers or {}, json.dumps(value).encode(), self.command != "HEAD")

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, with_content: bool
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_content:
            self.wfile.write(content)
