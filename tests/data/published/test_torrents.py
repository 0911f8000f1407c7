"""A swarm on 127.0.0.1: a seeder with a tiny tar of the published form, and our client."""

import sys
import time

import pytest

from invariances.data.published import torrents
from invariances.data.published.imagenet import ImageNetTrain
from invariances.data.published.root import Root
from invariances.system.errors import UserError

LOCAL = {
    "listen_interfaces": "127.0.0.1:0",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
}


@pytest.fixture
def libtorrent():
    return pytest.importorskip("libtorrent", reason="the extra `torrent` is not installed")


@pytest.fixture
def swarm(tiny, libtorrent, monkeypatch):
    """The infohash of the tiny train tar, which a seeder on 127.0.0.1 has."""
    files = libtorrent.file_storage()
    libtorrent.add_files(files, str(tiny.tar))
    made = libtorrent.create_torrent(files, 16_384)
    libtorrent.set_piece_hashes(made, str(tiny.sources))
    info = libtorrent.torrent_info(made.generate())
    session = libtorrent.session(LOCAL)
    wanted = libtorrent.add_torrent_params()
    wanted.ti, wanted.save_path = info, str(tiny.sources)
    handle = session.add_torrent(wanted)
    for _ in range(200):
        if handle.status().is_seeding and session.listen_port():
            break
        time.sleep(0.05)
    monkeypatch.delenv("INVARIANCES_OFFLINE")
    monkeypatch.setattr(torrents, "_SETTINGS", LOCAL)
    monkeypatch.setattr(torrents, "_PEERS", [("127.0.0.1", session.listen_port())])
    monkeypatch.setattr(torrents, "_STEP", 0.05)
    monkeypatch.setattr(ImageNetTrain, "infohash", str(info.info_hash()))
    monkeypatch.setattr(ImageNetTrain, "archive_size", tiny.tar.stat().st_size)
    yield session
    session.remove_torrent(handle)


def test_imagenet_comes_over_bittorrent_and_is_prepared(tiny, swarm, tmp_path, capfd):
    root = tmp_path / "root"
    ImageNetTrain.prepare(Root(root), None)
    assert len(ImageNetTrain(8, root)) == 20
    assert (root / ImageNetTrain.archive).read_bytes() == tiny.tar.read_bytes()
    assert not list(root.glob(".*.torrent"))
    told = capfd.readouterr().err
    assert "peers" in told
    assert "MB/s" in told


def test_what_was_fetched_before_is_not_fetched_again(tiny, swarm, tmp_path):
    root, whole = tmp_path / "root", tiny.tar.read_bytes()
    parts = root / f".{ImageNetTrain.archive}.torrent"
    parts.mkdir(parents=True)
    (parts / ImageNetTrain.archive).write_bytes(whole[: len(whole) // 2])
    ImageNetTrain.prepare(Root(root), None, progress=False)
    assert (root / ImageNetTrain.archive).read_bytes() == whole
    (seeder,) = swarm.get_torrents()
    assert 0 < seeder.status().total_payload_upload <= len(whole) - 16_384


def test_another_size_than_published_is_refused(tiny, swarm, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageNetTrain, "archive_size", 5)
    with pytest.raises(UserError, match=r"one of 5 was expected; get ILSVRC2012_img_train.tar"):
        ImageNetTrain.prepare(Root(tmp_path / "root"), None, progress=False)
    assert not (tmp_path / "root" / ImageNetTrain.archive).exists()


def test_nothing_comes_for_too_long(tiny, libtorrent, tmp_path, monkeypatch):
    monkeypatch.delenv("INVARIANCES_OFFLINE")
    monkeypatch.setattr(torrents, "_SETTINGS", LOCAL)
    monkeypatch.setattr(torrents, "_PEERS", [("127.0.0.1", 9)])
    monkeypatch.setattr(torrents, "_STEP", 0.02)
    monkeypatch.setattr(torrents, "PATIENCE", 0.3)
    with pytest.raises(
        UserError, match=r"image-net.org.*nothing came over BitTorrent for 0 minutes \(0 peers.*--from"
    ):
        ImageNetTrain.prepare(Root(tmp_path / "root"), None, progress=False)


def test_without_libtorrent_a_sentence_says_both_ways(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("INVARIANCES_OFFLINE")
    monkeypatch.setitem(sys.modules, "libtorrent", None)
    with pytest.raises(
        UserError, match=r"\(148 GB, from image-net.org\).*pip install 'invariances\[torrent\]'.*--from"
    ):
        ImageNetTrain.prepare(Root(tmp_path / "root"), None, progress=False)
    assert not list((tmp_path / "root").glob(".*.torrent"))


def test_no_patience_is_ten_minutes():
    assert torrents.PATIENCE == 600
