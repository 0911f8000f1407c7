"""The page that shows what layers keep of a picture."""

from __future__ import annotations

import streamlit as st
import torch
from torch import Tensor

from invariances.app import controls, downloads, figures, gallery, models, pictures
from invariances.app.again import python, shell
from invariances.app.compute import computed
from invariances.experiments.layers import LayerView, layer_views, others_of
from invariances.experiments.samples import record
from invariances.system.seeds import seeded

ALL = "all layers"


def page() -> None:
    """Chooses, samples, shows."""
    figures.lead(
        "To one layer, all of these samples are the same picture. What they share the layer knows; what varies between "
        "them it ignores."
    )
    above = st.container()
    one, two, three, four, five = st.columns([2.6, 1.8, 1.8, 1.1, 1.2], vertical_alignment="bottom")
    with one:
        network = models.choose_network()
    known = models.layers(network)
    with two:
        shown = st.selectbox("Layer", [ALL, *known], key="view", bind="query-params")
    with three:
        n = controls.count(2, 20, 8)
    with four, controls.more():
        temperature, seed, device = controls.temperature(), controls.seed(), controls.device()
    with five:
        controls.resample()
    layers = known if shown == ALL else [str(shown)]
    downloads.ensure_here(network, layers)
    with above:
        (picture,) = gallery.choose(network)
    beside = pictures.beside(picture.source, network)
    key = ("layers", picture.name, network, n, temperature, seed, device)
    views = []
    for number, layer in enumerate(layers):

        def work(layer: str = layer) -> LayerView:
            loaded = models.loaded(network, device)
            interpreter = loaded.at(layer)
            size = interpreter.image_size
            others = loaded.kept(
                (layer, beside.code(size)), lambda: others_of(interpreter, beside.load(size))
            )
            image = picture.load(size)
            return layer_views([interpreter], image, n, temperature, seeded("samples", seed), [others])[0]

        text = f"Sampling {layer} ({number + 1} of {len(layers)})"
        views.append(computed((*key, layer), text, work))
    _show(views)
    rows = torch.stack([torch.cat([torch.stack(_heads(view)), view.samples]) for view in views])
    asked = {"n": n, "temperature": temperature, "diverse": False, "refine": 0, "seed": seed}
    numbers = [record(network, view.layer, [view.numbers()], **asked) for view in views]
    size = views[0].picture.shape[-1]
    words = n, temperature, seed
    code = _code(network, layers, picture.code(size), beside.code(size), words)
    again = figures.Again(
        code, _command(network, layers, picture.file, words), pictures.unsaved([picture], size)
    )
    figures.footer("layers", rows, numbers, again)


def _code(network: str, layers: list[str], picture: str, others: str, words: tuple[int, float, int]) -> str:
    """The page as Python."""
    n, temperature, seed = words
    return python(
        f"picture = {picture}",
        f"others = {others}",
        f"for layer in {layers!r}:",
        f"    interpreter = Interpreter.load({network!r}, layer=layer)",
        f"    draws = seeded('samples', {seed})",
        f"    (view,) = layer_views([interpreter], picture, {n}, {temperature}, draws, others)",
        "    save_grid(view.samples[None], f'{layer}.png')",
        "    print(layer, view.numbers())",
    )


def _command(network: str, layers: list[str], file: str, words: tuple[int, float, int]) -> str:
    """The page as commands, each with a file of its own."""
    n, temperature, seed = words
    return "\n".join(
        shell(
            "sample", network, file, "--layer", layer, "--n", n, "--temperature", temperature,
            "--seed", seed, *([] if len(layers) == 1 else ["--output", f"{layer}.png"]),
        )
        for layer in layers
    )  # fmt: skip


def _heads(view: LayerView) -> list[Tensor]:
    return [view.picture, *([] if view.reconstruction is None else [view.reconstruction])]


def _show(views: list[LayerView]) -> None:
    first = views[0]
    st.html(figures.row(_heads(first), ["input", "autoencoder's reconstruction"], 150))
    if len(views) == 1:
        figures.heading(f"Samples for {first.layer}")
        st.html(figures.row(first.samples, side=118))
        _numbers(first)
        return
    figures.heading(
        "Samples, layer by layer", "From early layers to late ones; every column has the same invariances."
    )
    parts = []
    for view in views:
        told = [f"cosine {float(view.cosine.mean()):.2f}"]
        told += [f"others {float(view.others.mean()):.2f}"] if len(view.others) else []
        told += [f"same class {100 * view.agreement:.0f} %"] if view.agreement is not None else []
        told += [f"open {100 * view.variance_open:.0f} %"] if view.variance_open is not None else []
        parts.append(
            f"<div class='inv-layer'><div><b>{view.layer}</b><small>{'<br>'.join(told)}</small></div>"
            f"{figures.row(view.samples, side=97)}</div>"
        )
    st.html("".join(parts))
    st.html(
        "<p class='inv-note'><b>cosine</b>: how alike a sample and the input look to the layer, 1 being the same; "
        "<b>others</b> is what unrelated pictures reach. <b>same class</b>: samples named as the input. "
        "<b>open</b>: share of what varies between pictures that the layer leaves open, 0 knowing all, 1 nothing.</p>"
    )


def _numbers(view: LayerView) -> None:
    others = float(view.others.mean()) if len(view.others) else None
    figures.heading("Does the layer agree?")
    figures.meters(
        [
            figures.meter(
                "Cosine of samples and input",
                float(view.cosine.mean()),
                "1: to the layer they are the same. The orange mark is what unrelated pictures reach.",
                others,
            ),
            figures.meter(
                "Same prediction",
                view.agreement,
                "Share of samples that the network names as the input; 1: all.",
            ),
            figures.meter(
                "Left open",
                view.variance_open,
                "Share of what varies between pictures. 0: the layer knows all of it; 1: nothing.",
            ),
        ]
    )
