"""`invariances models ...`: what has a name here, where it comes from, whether it is here and whole."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Any

from invariances.system.errors import UserError

_STATES = {"shipped": "comes with the package", "here": "downloaded", "": "not downloaded"}


def list_models(kind: str | None = None, json: bool = False) -> None:
    """List every model that has a name here.

    Args:
        kind: Only this kind: interpreter, flow, autoencoder, generator, classifier, perceptual or reader.
        json: Print the registry as JSON.

    Example:
        invariances models list
        invariances models list --kind flow
    """
    from invariances import zoo

    entries = {name: zoo.entry(name) for name in zoo.names(kind)}
    if json:
        print(json_format.dumps({name: {**each, "state": _state(name)} for name, each in entries.items()}))
        return
    for group in zoo.KINDS:
        members = {name: each for name, each in entries.items() if each["kind"] == group}
        if not members:
            continue
        print(f"{group}s" if group != "perceptual" else "perceptual distances")
        width = max(map(len, members))
        for name, each in members.items():
            print(f"  {name:<{width}}  {_state(name) or '-':<7}  {each['title']}")
        print()
    if kind in (None, "interpreter"):
        _list_interpreters()
    print(
        "shipped: comes with the package; here: downloaded; -: `invariances models download NAME` fetches it"
    )


def _list_interpreters() -> None:
    """Which networks can be looked into by name, at which layers."""
    from invariances.zoo.interpreters import offers

    by_network: dict[str, list[str]] = {}
    for each in offers():
        by_network.setdefault(each.network, []).append(each.layer)
    print("what Interpreter.load(NETWORK, layer=LAYER) and the commands' --layer take")
    width = max(map(len, by_network))
    for network, layers in by_network.items():
        print(f"  {network:<{width}}  {', '.join(layers)}")
    print()


def info(name: str, json: bool = False) -> None:
    """Print what is known about one model.

    Args:
        name: As `invariances models list` shows it.
        json: Print JSON.

    Example:
        invariances models info bigae_animals
    """
    from invariances import zoo

    entry = zoo.entry(name)
    state = _state(name)
    if json:
        print(json_format.dumps({**entry, "path": str(zoo.path(name)), "state": state}))
        return
    rows = {key: value for key, value in entry.items() if key not in ("file", "package")}
    rows |= {"path": zoo.path(name), "state": _STATES[state]}
    if entry["kind"] == "flow":
        rows["use"] = f"Representation({entry['network']!r}, {entry['layer']!r}) and {entry['autoencoder']}"
    width = max(map(len, rows))
    for key, value in rows.items():
        print(f"{key:<{width}}  {_shown(key, value)}")


def download(names: list[str]) -> None:
    """Fetch published checkpoints, verify them, and print where they are.

    A stopped download goes on where it stopped. INVARIANCES_OFFLINE=1 forbids the network.

    Args:
        names: As `invariances models list` shows them, or `all`.

    Example:
        invariances models download bigae_animals cinn_alexnet_aae_fc6 alexnet
    """
    from invariances import zoo

    wanted = _wanted(names)
    failed = []
    for name in wanted:
        try:
            print(zoo.fetch(name))
        except UserError as error:
            if len(wanted) == 1:
                raise
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {len(wanted)} models could not be had: {', '.join(failed)}.")


def verify(names: list[str] | None = None, json: bool = False) -> None:
    """Read the files that are here again and compare their checksums.

    Args:
        names: Only these models; all that are here if left out.
        json: Print an object of name and verdict.

    Example:
        invariances models verify
    """
    from invariances import zoo

    wanted = _wanted(names) if names else [name for name in zoo.names() if _state(name)]
    verdicts = {name: _verdict(name) for name in wanted}
    if json:
        print(json_format.dumps(verdicts))
    else:
        width = max(map(len, verdicts), default=0)
        for name, verdict in verdicts.items():
            print(f"{name:<{width}}  {verdict}")
    bad = [name for name, verdict in verdicts.items() if verdict in ("damaged", "not here")]
    if bad:
        raise UserError(
            f"{', '.join(bad)}: damaged or not here; delete what is damaged and run `invariances models download`."
        )


def build(name: str, output: str = "models", photos: str | None = None, weights: str | None = None) -> None:
    """Train shipped models again from nothing, and write them to a folder; takes hours, and goes on where it stopped.

    Args:
        name: `shapes` or `photos`; a shipped model's own name stands for all that are trained with it.
        output: Folder to write to.
        photos: For the photos: folder that holds `animalfaces10/`, `animals64/`, `animals64_more.tar` and `dogs64.tar`.
        weights: For the photos: file of AlexNet's convolutions and LPIPS' linear layers.

    Example:
        invariances models build shapes --output models
        invariances models build photos --photos photos/ --weights alexnet_features_lpips.safetensors
    """
    from invariances import zoo

    if name not in ("shapes", "photos") and "package" not in zoo.entry(name):
        raise UserError(f"{name} was not trained here; `invariances models download {name}` fetches it.")
    if name.startswith("shapes"):
        from invariances.recipes import shapes_models as shapes

        shapes.build(output)
        print(Path(output))
        return
    if photos is None or weights is None:
        raise UserError(f"building {name} needs --photos FOLDER and --weights FILE; see --help.")
    from invariances.recipes import photos_flow as photos_models

    photos_models.build(output, photos, weights)
    print(Path(output))


def _wanted(names: list[str]) -> list[str]:
    from invariances import zoo

    return zoo.names() if names == ["all"] else [zoo.entry(name)["name"] for name in names]


def _state(name: str) -> str:
    from invariances import zoo

    if not zoo.path(name).is_file():
        return ""
    return "shipped" if "package" in zoo.entry(name) else "here"


def _verdict(name: str) -> str:
    from invariances import zoo
    from invariances.data.download import verify as matches

    entry, path = zoo.entry(name), zoo.path(name)
    if not path.is_file():
        return "not here"
    if "package" in entry:
        from invariances.zoo.interpreters import read_flow

        try:
            if entry["kind"] == "interpreter":
                for layer in entry["layers"]:
                    read_flow(path, layer)
            else:
                zoo.load(name)
        except UserError:
            return "damaged"
        return "loads"
    if not (entry.get("md5") or entry.get("sha256")):
        return "no checksum is known"
    return "whole" if matches(path, entry.get("md5"), entry.get("sha256")) else "damaged"


def _shown(key: str, value: Any) -> str:
    if key == "size":
        return f"{value / 1e6:,.0f} MB"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{k} = {v}" for k, v in value.items())
    return str(value)
