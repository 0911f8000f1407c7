"""A disk that fills up while training, and a W&B server that goes away: no step that is kept is lost."""

import csv
import json
import os
import socket
import subprocess
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import pytest

from invariances.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.slow
MOST_KB = 12_000


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, and a function that makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", f"size={MOST_KB}k", "tmpfs", place]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(made, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root alone")
    grow = ["mount", "-o", "remount,size=100m", place]
    yield place, lambda: subprocess.run(grow, check=True)
    subprocess.run(["umount", place], check=True)


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return [(row["step"], row["nll"]) for row in csv.DictReader(file)]


def test_a_full_disk_loses_nothing_that_a_checkpoint_held(fit, words, small_disk, tmp_path):
    place, grow = small_disk
    more = ["--run.checkpoint_every=1", "--run.keep_checkpoints=1000"]
    stopped = fit(words(f"--output={place / 'run'}", *more, steps=1000))
    last = place / "run" / "checkpoints" / "last.ckpt"
    assert stopped.returncode == 2, stopped.stderr
    (sentence,) = [line for line in stopped.stderr.splitlines() if line.startswith("invariances: ")]
    assert "disk" in sentence
    assert "full" in sentence
    assert "Traceback" not in stopped.stderr
    done = load_checkpoint(last)["global_step"]
    assert done > 1
    grow()
    again = fit(words(f"--output={place / 'run'}", *more, "--resume", steps=done + 3))
    assert again.returncode == 0, again.stderr
    whole = fit(words(f"--output={tmp_path / 'whole'}", steps=done + 3))
    assert whole.returncode == 0, whole.stderr
    assert losses(place / "run") == losses(tmp_path / "whole")


needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
BUCKET = {
    "id": "eA==",
    "name": "x",
    "displayName": "x",
    "config": "{}",
    "historyLineCount": 0,
    "project": {"id": "eA==", "name": "tests", "entity": {"id": "eA==", "name": "me"}},
}
ANSWERS = {
    "upsertBucket": {"upsertBucket": {"bucket": BUCKET, "inserted": True}},
    "createRunFiles": {"createRunFiles": {"runID": "eA==", "uploadHeaders": [], "files": []}},
    "model(": {"model": None},
    "viewer": {
        "viewer": {"id": "eA==", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
    },
}


class Server(ThreadingHTTPServer):
    """As much of W&B as lets a run begin; gone for good with the first rows it is sent."""

    daemon_threads = True

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words):
            """Nothing."""

        def do_POST(self):
            asked = self.rfile.read(int(self.headers.get("content-length", 0))).decode(errors="replace")
            if "file_stream" in self.path:
                self.server.gone.set()
            if self.server.gone.is_set():
                return
            found = next((answer for name, answer in ANSWERS.items() if name in asked), {})
            body = json.dumps({"data": found}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.gone = threading.Event()


def online(tmp_path, port):
    return {
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": f"http://127.0.0.1:{port}",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_INIT_TIMEOUT": "5",
        "WANDB_FINISH_TIMEOUT": "5",
        **{f"WANDB_{name}_DIR": str(tmp_path / "wandb") for name in ("CACHE", "CONFIG", "DATA")},
    }


@needs_wandb
def test_a_server_that_goes_away_leaves_the_run_as_it_is(fit, words, tmp_path):
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tmp_path / "run"
    try:
        place = online(tmp_path, server.server_address[1])
        done = fit(words(f"--output={folder}", "--run.wandb=tests", steps=30), place)
    finally:
        server.shutdown()
        server.server_close()
    assert server.gone.is_set(), done.stderr
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(losses(folder)) == 30
    assert (folder / "interpreter.safetensors").exists()
    assert list((folder / "wandb").glob("run-*/*.wandb"))  # what `wandb sync` sends


@needs_wandb
def test_a_server_that_was_never_there_is_a_sentence(fit, words, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = online(tmp_path, free.getsockname()[1])
    done = fit(words(f"--output={tmp_path / 'run'}", "--run.wandb=tests"), place)
    assert done.returncode == 2, done.stderr
    assert "Weights & Biases cannot be used" in done.stderr
    assert "WANDB_MODE=offline" in done.stderr
    assert "fault of ours" not in done.stderr
