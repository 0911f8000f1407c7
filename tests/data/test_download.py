"""Downloads from a server on 127.0.0.1 that misbehaves in every way a server can."""

import errno
import hashlib
import http.server
import io
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from invariances import UserError
from invariances.data import download as module
from invariances.data.download import download, verified
from invariances.system.files import cache_folder

BODY = bytes(range(256)) * 400
MD5 = hashlib.md5(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        step = server.script.pop(0) if server.script else {}
        if "status" in step and step["status"] != 200:
            self.send_response(step["status"])
            if "location" in step:
                self.send_header("Location", step["location"])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, start = step.get("body", BODY), 0
        wanted = self.headers.get("Range")
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Content-Disposition", 'attachment; filename="../../evil.sh"')
        self.end_headers()
        sent = body[start : step.get("cut", len(body))]
        for i in range(0, len(sent), step.get("chunk", len(sent) or 1)):
            self.wfile.write(sent[i : i + step.get("chunk", len(sent))])
            time.sleep(step.get("pause", 0))
        if step.get("hang"):
            server.stop.wait(5)


@pytest.fixture
def server():
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.requests, web.script, web.ranges, web.stop = [], [], True, threading.Event()
    web.address = f"http://127.0.0.1:{web.server_port}/file.bin?dl=1"
    threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield web
    web.stop.set()
    web.shutdown()
    web.server_close()


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    for name in (
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "INVARIANCES_OFFLINE",
    ):
        monkeypatch.delenv(name, raising=False)


def get(server, target, **options):
    return download(server.address, target, **{"md5": MD5, "backoff": 0.01, "progress": False, **options})


def test_fetched_once_and_verification_remembered(server, tmp_path, monkeypatch):
    target = tmp_path / "a" / "b" / "model.ckpt"
    assert get(server, target).read_bytes() == BODY
    assert verified(target, MD5)
    monkeypatch.setattr(module, "verify", lambda *a: pytest.fail("read again"))
    get(server, target)
    assert len(server.requests) == 1
    assert sorted(p.name for p in target.parent.iterdir() if p.suffix != ".lock") == [
        "model.ckpt",
        "model.ckpt.verified",
    ]
    assert not (tmp_path / "evil.sh").exists()


@pytest.mark.parametrize("cut", [0, 1, 4096, len(BODY) // 2, len(BODY) - 1])
@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_at_any_byte(server, tmp_path, cut, ranges):
    server.ranges = ranges
    server.script = [{"cut": cut}]
    assert get(server, tmp_path / "f").read_bytes() == BODY
    assert server.requests[1][1] == (f"bytes={cut}-" if cut else None)


def test_an_earlier_run_is_continued(server, tmp_path):
    (tmp_path / "f.part").write_bytes(BODY[:5000])
    assert get(server, tmp_path / "f").read_bytes() == BODY
    assert server.requests == [("/file.bin?dl=1", "bytes=5000-")]


@pytest.mark.parametrize("part", [b"x" * 5000, BODY + b"more", BODY])
def test_a_part_that_is_no_beginning_is_thrown_away(server, tmp_path, part):
    (tmp_path / "f.part").write_bytes(part)
    assert get(server, tmp_path / "f").read_bytes() == BODY


def test_wrong_md5_names_file_checksum_and_folder(server, tmp_path):
    wrong = "0" * 32
    with pytest.raises(UserError) as caught:
        get(server, tmp_path / "f.ckpt", md5=wrong, attempts=2)
    for word in (server.address, wrong, str(tmp_path), "f.ckpt", "by hand"):
        assert word in str(caught.value)
    assert not (tmp_path / "f.ckpt").exists()
    assert not (tmp_path / "f.ckpt.part").exists()


def test_sha256_prefix(server, tmp_path):
    digest = hashlib.sha256(BODY).hexdigest()
    assert get(server, tmp_path / "f", md5=None, sha256=digest[:8]).exists()
    with pytest.raises(UserError, match="SHA-256 00000000"):
        get(server, tmp_path / "g", md5=None, sha256="0" * 8, attempts=1)


def test_truncated_for_ever(server, tmp_path):
    server.script = [{"cut": 100}] * 10
    server.ranges = False
    with pytest.raises(UserError, match="after 100 of 102,400 bytes"):
        get(server, tmp_path / "f", attempts=3)
    assert len(server.requests) == 3
    assert not (tmp_path / "f").exists()


def test_404_is_final(server, tmp_path):
    server.script = [{"status": 404}]
    with pytest.raises(UserError, match=r"answers 404.*by hand"):
        get(server, tmp_path / "f")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_server_error_then_fine(server, tmp_path, status):
    server.script = [{"status": status}, {"status": status}]
    assert get(server, tmp_path / "f").read_bytes() == BODY


def test_redirect(server, tmp_path):
    server.script = [{"status": 302, "location": "/elsewhere"}]
    assert get(server, tmp_path / "f").read_bytes() == BODY
    assert [path for path, _ in server.requests] == ["/file.bin?dl=1", "/elsewhere"]


def test_slow_and_silent(server, tmp_path):
    server.script = [{"chunk": 30_000, "pause": 0.05}]
    assert get(server, tmp_path / "f").read_bytes() == BODY
    server.script = [{"cut": 1000, "hang": True}]
    assert get(server, tmp_path / "g", timeout=0.3).read_bytes() == BODY


def test_nobody_answers(tmp_path):
    with pytest.raises(UserError, match=r"in 2 tries \(.*refused.*by hand"):
        download("http://127.0.0.1:9/f", tmp_path / "f", md5=MD5, attempts=2, backoff=0.01, progress=False)


def test_two_clients_fetch_once(server, tmp_path):
    server.script = [{"chunk": 20_000, "pause": 0.1}]
    code = (
        "import sys; from invariances.data.download import download; "
        "download(sys.argv[1], sys.argv[2], md5=sys.argv[3], progress=False)"
    )
    clients = [
        subprocess.Popen([sys.executable, "-c", code, server.address, str(tmp_path / "f"), MD5])
        for _ in range(2)
    ]
    assert [client.wait(60) for client in clients] == [0, 0]
    assert len(server.requests) == 1
    assert (tmp_path / "f").read_bytes() == BODY


def test_disk_full(server, tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    real = module.Path.open
    monkeypatch.setattr(
        module.Path,
        "open",
        lambda self, mode="r", **k: Full(self, "wb") if self.suffix == ".part" else real(self, mode, **k),
    )
    with pytest.raises(UserError, match="No space left on device"):
        get(server, tmp_path / "f")
    assert len(server.requests) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(server, tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
            get(server, tmp_path / "sub" / "f")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_no_permission_as_root(server, tmp_path, monkeypatch):
    def denied(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module.Path, "mkdir", denied)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
        get(server, tmp_path / "sub" / "f")


def test_a_folder_in_the_way_of_a_folder(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        get(server, tmp_path / "file" / "f")


def test_offline_never_touches_the_network(server, tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    with pytest.raises(UserError) as caught:
        get(server, tmp_path / "f.ckpt")
    for word in ("INVARIANCES_OFFLINE", server.address, MD5, str(tmp_path), "f.ckpt"):
        assert word in str(caught.value)
    (tmp_path / "f.ckpt").write_bytes(BODY)  # by hand
    assert get(server, tmp_path / "f.ckpt").read_bytes() == BODY
    assert server.requests == []


def test_a_file_put_by_hand_is_verified(server, tmp_path):
    (tmp_path / "f").write_bytes(b"something else")
    with pytest.raises(UserError, match="has not the expected MD5"):
        get(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"something else"
    (tmp_path / "f").write_bytes(BODY)
    get(server, tmp_path / "f")
    (tmp_path / "f").write_bytes(BODY[::-1])  # changed after it was verified
    with pytest.raises(UserError, match="has not the expected MD5"):
        get(server, tmp_path / "f")
    assert server.requests == []


def test_proxy_and_cache_folder_of_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    download("http://example.invalid/x", tmp_path / "f", md5=MD5, progress=False)
    assert server.requests == [("http://example.invalid/x", None)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path


def test_progress_shows_name_and_size(server, tmp_path, capsys):
    get(server, tmp_path / "model.ckpt", progress=True)
    err = capsys.readouterr().err
    assert "model.ckpt" in err
    assert "102k" in err


def test_only_http(tmp_path):
    with pytest.raises(UserError, match="no http"):
        download("file:///etc/passwd", tmp_path / "f")
