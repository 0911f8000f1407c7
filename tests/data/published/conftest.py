"""Tiny data sets of the published form: archives, lists and boxes as they are published, with a dozen pictures."""

import io
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from invariances.data.published import animalfaces, awa2, imagenet
from invariances.data.published.animalfaces import face_name

SYNSETS = ("n00000001", "n00000002", "n00000003", "n00000004", "n00000005")
ANIMALS = SYNSETS[1:4]
NAMES = ("tench", "red fox", "lynx", "lion", "toaster")


def jpeg(seed, width=40, height=30):
    low = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(low).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def tar_of(files, format=tarfile.USTAR_FORMAT):
    """The bytes of a tar of names and bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tree(root):
    """Every file below a folder, and its bytes."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Sources in `sources/`; the published numbers are those of the tiny sets."""
    sources = tmp_path / "sources"
    sources.mkdir()
    train = {
        synset: {f"{synset}_{k}.JPEG": jpeg(100 * s + k) for k in range(1, 5)}
        for s, synset in enumerate(SYNSETS)
    }
    order = [SYNSETS[k] for k in (3, 0, 4, 1, 2)]
    train_tar = tar_of({f"{synset}.tar": tar_of(train[synset]) for synset in order})
    (sources / imagenet.ImageNetTrain.archive).write_bytes(train_tar)
    validation = {f"ILSVRC2012_val_{k:08d}.JPEG": jpeg(1000 + k) for k in range(1, 11)}
    homes = {name: SYNSETS[k % 5] for k, name in enumerate(validation)}
    (sources / imagenet.ImageNetValidation.archive).write_bytes(tar_of(validation))
    (sources / "validation_synset.txt").write_text("".join(f"{n} {s}\n" for n, s in homes.items()))
    monkeypatch.setattr(imagenet.ImageNetTrain, "length", 20)
    monkeypatch.setattr(imagenet.ImageNetValidation, "length", 10)
    monkeypatch.setattr(imagenet.ImageNetAnimalsValidation, "length", 6)
    for module in (imagenet, animalfaces):
        monkeypatch.setattr(module, "synsets", lambda: SYNSETS)
        monkeypatch.setattr(module, "human_names", lambda: NAMES)
    monkeypatch.setattr(imagenet, "CARNIVORES", slice(1, 4))

    boxes = {
        s: {f"{s}_{k}.JPEG": [(2, 3, 30, 25), (5, 0, 12, 9)][: 1 + k % 2] for k in (1, 2, 4)} for s in ANIMALS
    }
    faces = [(s, p, box) for s in boxes for p in boxes[s] for box in boxes[s][p]]
    lines = [f"{s}/{p} {' '.join(map(str, box))}\n" for s, p, box in faces]
    (sources / animalfaces.COORDINATES).write_text("".join(lines))
    names = sorted(face_name(*face) for face in faces)
    for kind, chosen in (
        (animalfaces.AnimalFacesSharedTrain, names[::2]),
        (animalfaces.AnimalFacesSharedTest, names[1::2]),
        (animalfaces.AnimalFacesRestrictedTest, [name for name in names if name < ANIMALS[2]]),
    ):
        (sources / kind.list_file).write_text("".join(name + "\n" for name in chosen))
        monkeypatch.setattr(kind, "length", len(chosen))
        monkeypatch.setattr(kind, "kinds", len({name.split("/")[0] for name in chosen}))

    animals = {
        f"{awa2.PICTURES}/{kind}/{kind}_{k}.jpg": jpeg(2000 + 10 * c + k)
        for c, kind in enumerate(("antelope", "grizzly+bear", "zebra"))
        for k in range(1, 5)
    }
    other = {"Animals_with_Attributes2/classes.txt": b"1 antelope\n", "Animals_with_Attributes2/README": b"x"}
    with zipfile.ZipFile(sources / awa2.ARCHIVE, "w") as archive:
        for name, data in {**other, **animals}.items():
            archive.writestr(name, data)
    monkeypatch.setattr(awa2, "TOTAL", 12)
    monkeypatch.setattr(awa2, "TESTED", 4)
    monkeypatch.setattr(awa2.AwA2Train, "length", 8)
    monkeypatch.setattr(awa2.AwA2Test, "length", 4)
    monkeypatch.setenv("INVARIANCES_OFFLINE", "1")
    return SimpleNamespace(
        synsets=SYNSETS,
        carnivores=ANIMALS,
        jpeg=jpeg,
        tar_of=tar_of,
        tree=tree,
        sources=sources,
        train=train,
        validation=validation,
        homes=homes,
        boxes=boxes,
        names=names,
        awa2=animals,
        tar=sources / imagenet.ImageNetTrain.archive,
    )
