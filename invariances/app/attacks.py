"""The page of adversarial attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from invariances.app import controls, downloads, figures, gallery, models, pictures
from invariances.app.again import python, shell
from invariances.app.compute import computed
from invariances.experiments.attack import Attack, Method, attack
from invariances.experiments.samples import record
from invariances.system.seeds import seeded
from invariances.zoo.interpreters import layers_of

AWAY = "Anything else"


def page() -> None:
    """Chooses, attacks, shows."""
    figures.lead(
        "A change that nobody sees makes the network see something else. Every picture below, decoded from what one "
        "layer holds, shows what the network believes it looks at."
    )
    above = st.container()
    one, two, three, four, five = st.columns([2.6, 1.6, 2, 1.1, 1.2], vertical_alignment="bottom")
    with one:
        network = models.choose_network()
    with two:
        layer = models.choose_layer(network)
    with three:
        epsilon = st.slider(
            "Strength ε", 0.0, 0.3, 0.02, 0.01, key="epsilon", bind="query-params", help=_EPSILON
        )
    with four, controls.more():
        method = _method()
        aim = st.container()
        n = controls.count(2, 6, 3)
        seed, device = controls.seed(), controls.device()
    with five:
        controls.resample()
    downloads.ensure_here(network, [layer])
    with above:
        (picture,) = gallery.choose(network)
    names = computed(
        ("names", network, device), "Loading the network", lambda: _names(network, layer, device)
    )
    with aim:
        target = st.selectbox("Make it see", [AWAY, *names], key="target", bind="query-params")
    number = names.index(target) if target in names else None
    options = Options(network, layer, method, epsilon, number, n, seed)
    key = ("attack", picture.name, options, device)
    found = computed(
        key, "Attacking, and asking the layer what it sees", lambda: options.run(picture, device)
    )
    _show(found, found.numbers(names)[0], epsilon)
    rows = figures.stacked([found.tiles()[0, :5], found.samples[0], found.attacked_samples[0]], max(5, n))
    size = found.original.shape[-1]
    again = figures.Again(
        options.code(picture.code(size)), options.command(picture.file), pictures.unsaved([picture], size)
    )
    figures.footer("attack", rows, options.record(found.numbers(names)), again)


@dataclass(frozen=True)
class Options:
    """What decides an attack beside the picture; runs it, and says how to run it without the app."""

    network: str
    layer: str
    method: Method
    epsilon: float
    target: int | None
    n: int
    seed: int

    def run(self, picture: pictures.Picture, device: str) -> Attack:
        """The attack on a picture."""
        interpreter = models.loaded(self.network, device).at(self.layer)
        image, draws = picture.load(interpreter.image_size)[None], seeded("attack", self.seed, 0)
        known = layers_of(self.network)
        return attack(interpreter, image, self.method, self.epsilon, self.target, self.n, draws, known)

    def record(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The numbers as the command writes them."""
        return record(
            self.network, self.layer, rows, method=self.method, epsilon=self.epsilon, target=self.target,
            n=self.n, seed=self.seed,
        )  # fmt: skip

    def code(self, picture: str) -> str:
        """As Python."""
        options = f"{self.method!r}, {self.epsilon}, {self.target}, {self.n}"
        return python(
            f"interpreter = Interpreter.load({self.network!r}, layer={self.layer!r})",
            f"picture = {picture}",
            f"draws, layers = seeded('attack', {self.seed}, 0), layers_of({self.network!r})",
            f"found = attack(interpreter, picture, {options}, draws, layers)",
            "save_grid(found.tiles(), 'attack.png')",
            "print(found.numbers(interpreter.representation.class_names))",
        )

    def command(self, file: str) -> str:
        """As a command."""
        aim = [] if self.target is None else ["--target", self.target]
        return shell(
            "attack", self.network, file, "--layer", self.layer, "--method", self.method,
            "--epsilon", self.epsilon, "--n", self.n, "--seed", self.seed, *aim,
        )  # fmt: skip


def _method() -> Method:
    chosen: Method = st.segmented_control(
        "Attack", ["fgsm", "pgd"], default="fgsm", format_func=str.upper, key="attack", bind="query-params",
        required=True, help="FGSM takes one step, PGD twenty.",
    )  # fmt: skip
    return chosen


_EPSILON = "The largest change of a pixel, on a scale from -1 (black) to 1 (white)."


def _names(network: str, layer: str, device: str) -> list[str]:
    representation = models.loaded(network, device).at(layer).representation
    return list(representation.class_names or [])


def _show(found: Attack, numbers: dict[str, Any], epsilon: float) -> None:
    left, right = st.columns([1.15, 1], gap="medium")
    with left:
        figures.heading("Input + change = attacked picture")
        change = figures.signs_of(found.original[0], found.attacked[0])
        parts = [
            (found.original[0], "input"),
            (change, f"change, at most {epsilon:g}"),
            (found.attacked[0], "attacked"),
        ]
        st.html(figures.equation(parts, ["+", "="]))
    with right:
        figures.heading("What the network says")
        figures.guesses(
            {
                "of the input": numbers["predicted_original"],
                "of the attacked picture": numbers["predicted_attacked"],
                "with noise instead": numbers["predicted_noisy"],
            }
        )
    figures.heading(
        "What you see, and what the network sees",
        "The second keeps what the layer ignores of the input and takes what it knows from the attacked picture.",
    )
    tiles = [
        (found.attacked[0], "what you see"),
        (found.seen[0], "what the network sees"),
        (found.attacked_reconstruction[0], "check: autoencoder alone"),
        (found.noise_seen[0], "control: equal noise"),
    ]
    st.html(figures.row([tile for tile, _ in tiles], [name for _, name in tiles], 150))
    n = found.samples.shape[1]
    figures.heading(
        "Pictures that the layer cannot tell apart", "Each column has the same invariances in both rows."
    )
    side = 124
    st.html(
        figures.row(found.samples[0], [f"input {k + 1}" for k in range(n)], side)
        + figures.row(found.attacked_samples[0], [f"attacked {k + 1}" for k in range(n)], side)
    )
    figures.heading(
        "How far each layer moved",
        "Distance of its representation from that of the input, as a share of its length; noise is the control.",
    )
    figures.bars(
        {name: (float(one[0]), float(two[0])) for name, (one, two) in found.movement.items()},
        ("attack", "noise of equal length"),
    )
