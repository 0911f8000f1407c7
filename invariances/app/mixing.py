"""The page of image mixing."""

from __future__ import annotations

import streamlit as st

from invariances.app import controls, downloads, figures, gallery, models, pictures
from invariances.app.again import python, shell
from invariances.app.compute import computed
from invariances.experiments.mixing import Mixture, mix


def page() -> None:
    """Chooses, mixes, shows."""
    figures.lead(
        "Each row keeps what the layer knows of its picture; each column takes what the layer ignores from its own. "
        "Click pictures to add them or take them out, six at most."
    )
    above = st.container()
    one, two, three = st.columns([3, 2, 1.2], vertical_alignment="bottom")
    with one:
        network = models.choose_network()
    with two:
        layer = models.choose_layer(network)
    with three, controls.more():
        device = controls.device()
        st.caption("Mixing draws nothing at random.")
    downloads.ensure_here(network, [layer])
    with above:
        chosen = gallery.choose(network, many=True)

    def work() -> Mixture:
        interpreter = models.loaded(network, device).at(layer)
        return mix(interpreter, pictures.batch(chosen, interpreter.image_size))

    key = ("mix", tuple(each.name for each in chosen), network, layer, device)
    found = computed(key, f"Mixing {len(chosen)} pictures", work)
    names = [each.label for each in chosen]
    figures.heading(
        "Content by invariances", "Framed in orange: a picture with itself, which is its reconstruction."
    )
    st.html(figures.table(found.grid(), names, names, "content ↓<br>invariances →"))
    others = [float(found.kept[i, j]) for i in range(len(names)) for j in range(len(names)) if i != j]
    if others:
        figures.meters(
            [
                figures.meter(
                    "Content kept",
                    sum(others) / len(others),
                    "How alike a mixture and its row's picture look to the layer; 1: the same.",
                )
            ]
        )
    side = found.pictures.shape[-1]
    code = python(
        f"interpreter = Interpreter.load({network!r}, layer={layer!r})",
        "pictures = torch.cat([",
        *(f"    {each.code(side)}," for each in chosen),
        "])",
        "found = mix(interpreter, pictures)",
        "save_grid(found.grid(), 'mix.png')",
        "print(found.kept.tolist())",
    )
    command = shell("mix", network, *(each.file for each in chosen), "--layer", layer)
    again = figures.Again(code, command, pictures.unsaved(chosen, side))
    figures.footer("mix", found.grid(), found.numbers(network, layer), again)
