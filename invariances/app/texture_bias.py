"""The page of texture bias: two networks, one picture, the same invariances."""

from __future__ import annotations

import streamlit as st
import torch

from invariances.app import controls, downloads, figures, gallery, models, pictures
from invariances.app.again import python, shell
from invariances.app.compute import computed
from invariances.experiments.texture_bias import Reader, TextureBias, compared, texture_bias
from invariances.system.errors import UserError
from invariances.system.seeds import seeded
from invariances.zoo.interpreters import find_offer
from invariances.zoo.readers import reader_for


def page() -> None:
    """Chooses, samples both, shows."""
    figures.lead(
        "Does a network go by shape or by texture? Both networks get the same random invariances, so whatever differs "
        "between two samples of a pair is due to what each network keeps."
    )
    above = st.container()
    network, layer, twins = _networks()
    one, two, three, four, five = st.columns([2.3, 2.3, 1.6, 1.1, 1.2], vertical_alignment="bottom")
    with one:
        first = models.select_network("First network", network, "first")
    with two:
        second = models.select_network("Second network", list(twins[first]), "second")
    with three:
        known = layer[first, second]
        index = max(0, len(known) - 2)
        at = str(st.selectbox("Layer", known, index=index, key="cut", bind="query-params"))
    with four, controls.more():
        n = controls.count(2, 16, 6)
        temperature, seed, device = controls.temperature(), controls.seed(), controls.device()
    with five:
        controls.resample()
    for each in (first, second):
        downloads.ensure_here(each, [at])
    encodes = find_offer(first, at).encodes
    with above:
        (picture,) = gallery.choose(first, prefer="" if encodes else "texturebias")

    def work() -> TextureBias:
        one, two = (models.loaded(each, device).at(at) for each in (first, second))
        image = picture.load(one.image_size)[None]
        return texture_bias(one, two, image, n, temperature, seeded("texture", seed, 0), _reader(first))

    key = ("texture", picture.name, first, second, at, n, temperature, seed, device)
    found = computed(key, "Sampling both networks", work)
    if not encodes:
        st.caption(
            "The decoder of these networks is a generator without encoder: there are samples, no reconstruction."
        )
    _show(found, (models.label(first), models.label(second)))
    side = found.pictures.shape[-1]
    code = python(
        f"first, second = (Interpreter.load(name, layer={at!r}) for name in {(first, second)!r})",
        f"picture = {picture.code(side)}",
        f"draws, reader = seeded('texture', {seed}, 0), reader_for({first!r})",
        f"found = texture_bias(first, second, picture, {n}, {temperature}, draws, reader)",
        "save_grid(torch.cat(found.samples), 'texture_bias.png')",
        "print(found.numbers())",
    )
    command = shell(
        "texture-bias", first, second, picture.file, "--layer", at, "--n", n, "--temperature", temperature,
        "--seed", seed,
    )  # fmt: skip
    rows = torch.stack([torch.cat([found.pictures, each[0]]) for each in found.samples])
    asked = {"n": n, "temperature": temperature, "seed": seed}
    numbers = compared([(first, at), (second, at)], found.numbers(), **asked)
    again = figures.Again(code, command, pictures.unsaved([picture], side))
    figures.footer("texture_bias", rows, numbers, again)


@st.cache_resource(max_entries=4, show_spinner=False)
def _reader(network: str) -> Reader | None:
    return reader_for(network)


def _networks() -> tuple[list[str], dict[tuple[str, str], list[str]], dict[str, dict[str, None]]]:
    """Networks that have a twin, the layers that each pair shares, and the twins of each."""
    shared: dict[tuple[str, str], list[str]] = {}
    twins: dict[str, dict[str, None]] = {}
    for one, others in models.pairs_of_networks().values():
        for two in others:
            shared.setdefault((one.network, two.network), []).append(one.layer)
            twins.setdefault(one.network, {})[two.network] = None
    if not twins:
        raise UserError("no two networks with latents of one kind are installed; install the package again")
    order = [each for each in models.networks(encodes=False) if each in twins]
    return order, shared, twins


def _show(found: TextureBias, names: tuple[str, str]) -> None:
    left, right = st.columns([1, 4.6], gap="medium")
    with left:
        figures.heading("Input")
        st.html(figures.row(found.pictures, [""], 150))
    with right:
        for samples, name in zip(found.samples, names):
            figures.heading(name)
            st.html(figures.row(samples[0], side=104))
    figures.heading(
        "What samples keep", "Measured on the samples shown; 0 is what unrelated pictures reach, 1 is all."
    )
    for k, name in enumerate(names):
        st.html(f"<div class='inv-note'>{name}</div>")
        close = float(found.cosine[k].mean())
        figures.meters(
            [
                *(
                    figures.meter(cue.capitalize(), float(value[0]), f"Samples that keep the input's {cue}.")
                    for cue, value in found.kept[k].items()
                ),
                figures.meter("Cosine", close, "How alike samples and input look to the layer; 1: the same."),
            ]
        )
