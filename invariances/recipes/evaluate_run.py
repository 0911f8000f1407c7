"""All numbers of a trained run, and its pictures."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from invariances.data.identity import Identity, without
from invariances.evaluation.config import Evaluation
from invariances.evaluation.likelihood import bits_per_dim
from invariances.evaluation.looking import Sampling
from invariances.evaluation.numbers import evaluate, lines, write_numbers
from invariances.experiments.samples import sample_rows
from invariances.interpreter import Interpreter, autoencoder_of
from invariances.report.grids import grid, save_grid
from invariances.report.html import page, picture, save_page, table
from invariances.representation.representation import Representation
from invariances.system.errors import UserError
from invariances.system.machine import accelerator
from invariances.system.seeds import seeded
from invariances.training.checkpoints import checkpoint_of, load_checkpoint, weights_in
from invariances.training.config import FitConfig
from invariances.training.data import FeatureData
from invariances.training.new_flow import new_flow
from invariances.training.run_folder import TRAINED_ON, read_config
from invariances.training.untold import untold_flow
from invariances.zoo.interpreters import find_offer, knows
from invariances.zoo.needs import needing

EVALUATION, GRID, PAGE = "evaluation.json", "evaluation.png", "evaluation.html"
_ROWS, _COLUMNS = 8, 8


def evaluate_run(run: str | os.PathLike[str], how: Evaluation = Evaluation()) -> dict[str, Any]:
    """Every number of a run or a named flow, written to `evaluation.json` with `evaluation.png` and a page beside it.

    Args:
        run: The folder of a run of `invariances fit`; or a published or shipped flow's name, whose files go to
            `evaluations/`.
        how: What to evaluate, and how.

    Raises:
        UserError: The run cannot be read, or all pictures to evaluate on were trained on.
    """
    named = not Path(run).is_dir() and knows(str(run))
    if named:
        config = FitConfig()
        with needing(find_offer(str(run), how.layer).files, [how.images]):
            interpreter, data, folder = _named(str(run), how)
    else:
        config, folder = read_config(run), Path(run)
        with needing(
            [how.network or config.network, config.autoencoder], [how.images or config.data.held_out]
        ):
            interpreter = interpreter_of(run, config, how.network, how.checkpoint)
            interpreter = interpreter.at(how.layer or interpreter.representation.layer)
            data = pictures_of(
                run, config, interpreter.image_size, how.images, how.progress, how.unconditional
            )
    interpreter.to(accelerator(how.device))
    representation = interpreter.representation
    data.prepare([representation], interpreter.autoencoder, training=False)
    features = data.held_out_features(representation.layer)
    result: dict[str, Any] = {
        "run": str(run),
        "checkpoint": how.checkpoint,
        "network": representation.network_name,
        "layer": representation.layer,
    }
    result |= evaluate(
        interpreter,
        data.held_out_set,
        features,
        sampling=Sampling(how.n, how.temperature, how.seed),
        fid=how.fid,
        limit=how.limit,
        progress=how.progress,
    )
    if how.unconditional:
        fit = replace(config, run=replace(config.run, progress=how.progress, device=how.device))
        flow = untold_flow(representation, interpreter.autoencoder, data, fit)
        result["unconditional_nll_bits_per_dim"] = bits_per_dim(flow, features)
    folder.mkdir(parents=True, exist_ok=True)
    write_numbers(folder / EVALUATION, result)
    draw(interpreter, data, result, folder, how.temperature)
    return result


def _named(name: str, how: Evaluation) -> tuple[Interpreter, FeatureData, Path]:
    """A flow that has a name, the pictures for it, and where its numbers go."""
    if how.images is None:
        raise UserError(f"{name} comes without pictures; name a folder or a data set with --images")
    if how.checkpoint is not None or how.unconditional:
        raise UserError(f"{name} is no run here: leave out --checkpoint and --unconditional")
    interpreter = Interpreter.load(name, how.network, layer=how.layer)
    data = FeatureData(how.images, how.images, progress=how.progress)
    data.read(interpreter.image_size)
    print(f"nobody here knows which pictures {name} was trained on", file=sys.stderr)
    return interpreter, data, Path("evaluations") / f"{name}_{interpreter.representation.layer}"


def interpreter_of(
    run: str | os.PathLike[str],
    config: FitConfig,
    network: str | nn.Module | None = None,
    checkpoint: str | None = None,
) -> Interpreter:
    """The interpreter of a run, or of one of its checkpoints, which need not be the run's last.

    Args:
        run: The folder.
        config: Of the run.
        network: As of `Interpreter.load`.
        checkpoint: A file, a step of its series, "best" or "last"; None for the run's result.

    Raises:
        UserError: It cannot be read, or is of another run.
    """
    if checkpoint is None:
        return Interpreter.load(run, network)
    found = load_checkpoint(checkpoint_of(run, checkpoint))
    about = found["invariances"]
    given = network or config.network
    if given is None or config.autoencoder is None:
        raise UserError(
            "the run was trained in Python on objects; finish it, and evaluate its result with --network"
        )
    path = Path(run) / TRAINED_ON
    of_this = path.is_file() and about["pictures"][0] == Identity.load(path).digest()
    if about["layer"] != config.layer or not of_this:
        raise UserError(
            f"checkpoint {checkpoint!r} is of another run than {str(run)!r}, of another layer or trained on other "
            "pictures; name its own run's folder"
        )
    layer = str(about["layer"])
    known = isinstance(given, nn.Module)
    cut = Representation(
        given, layer, None if known else config.weights, size=config.size, token=config.token
    )
    code = autoencoder_of(config.autoencoder)
    for what, ours in (("network", cut.fingerprint()), ("autoencoder", code.fingerprint())):  # type: ignore[operator]
        if about[what] != ours:
            raise UserError(f"the checkpoint is of another {what} than the run's config.yaml names")
    flow = new_flow(config.flow, cut, code, config.run.seed)
    flow.probabilities = bool(about.get("probabilities", flow.probabilities))
    try:
        flow.load_state_dict(weights_in(found))
    except RuntimeError:
        raise UserError(f"checkpoint {checkpoint!r} is of another architecture than this run's") from None
    return Interpreter(cut, code, flow).eval()


def pictures_of(
    folder: str | os.PathLike[str],
    config: FitConfig,
    size: int,
    images: str | list[str] | None,
    progress: bool,
    training: bool = False,
) -> FeatureData:
    """The run's pictures kept out, or those of another folder; none that the run was trained on.

    Args:
        folder: Of the run.
        config: Of the run.
        size: Of the pictures.
        images: The other folder.
        progress: Bars on stderr.
        training: Whether those that it was trained on are wanted besides.

    Raises:
        UserError: The run's pictures were given in Python and no folder is, or none is left.
    """
    if images is None and config.data.images is None:
        raise UserError("the run was trained on a data set given in Python; name a folder with --images")
    kept_out = config.data.held_out
    if images is None and isinstance(kept_out, (str, list)):  # what was trained on is not needed
        images = kept_out
    source: Any = config.data.images if images is None or training else images
    data = FeatureData(source, images, config.data, config.cache, config.run.precision, progress)
    data.read(size)
    path = Path(folder) / TRAINED_ON
    if not path.is_file():
        raise UserError(
            f"{str(path)!r} is missing, so nobody can tell which pictures were trained on; train again"
        )
    count = len(data.held_out_set)
    kept, known = without(data.held_out_set, Identity.load(path), progress)
    if kept is None:
        raise UserError(
            f"all {count} pictures were trained on, so they say nothing about others; give other --images"
        )
    if known:
        print(f"{known} of {count} pictures were trained on and are left out", file=sys.stderr)
    data.held_out_set = kept
    return data


def draw(
    interpreter: Interpreter, data: FeatureData, result: dict[str, Any], folder: Path, temperature: float
) -> None:
    """Writes the grid and the page of an evaluation.

    Args:
        interpreter: Of the run.
        data: With the pictures kept out.
        result: The numbers.
        folder: To write to.
        temperature: Of the samples.
    """
    images = data.held_out_images(_ROWS)
    rows, names = sample_rows(interpreter, images, _COLUMNS, seeded("grid", result["seed"]), temperature)
    save_grid(rows, folder / GRID, column_labels=names)
    numbers = [[each.name, each.text()] for each in lines(result)]
    title = f"What {result['layer']} of {result['network']} knows"
    sections = {
        "Samples": [
            picture(
                grid(rows, column_labels=names),
                "pictures, reconstructions and samples",
                f"Every sample is a picture that {result['layer']} can hardly tell from the first of its row: "
                "what they share, the layer knows; what varies, it ignores.",
            )
        ],
        "Numbers": [table(["measure", "value"], numbers)],
    }
    save_page(page(title, sections), folder / PAGE)
    print(f"pictures: {folder / GRID}, page: {folder / PAGE}", file=sys.stderr)
