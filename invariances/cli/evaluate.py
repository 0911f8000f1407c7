"""`invariances evaluate`: the numbers and pictures of a run, or of a flow that has a name."""

from __future__ import annotations


def evaluate(argv: list[str]) -> int:  # noqa: D417
    """Numbers and pictures of a trained run, or of a published or shipped flow, on pictures kept out of training.

    Prints JSON, and writes it to evaluation.json with evaluation.png and evaluation.html: in the run's folder, or in
    evaluations/ for a name. Needs no training data: a run knows by content which pictures it was trained on, and
    leaves them out. Options can stand in YAML files too (-c, several, the last wins).

    Args:
        run: The run's folder, or a flow's name.
        checkpoint: Of the run, in place of its result - a file, a step of its series, best or last.
        images: A folder, or a data set's name, to evaluate on instead of the pictures kept out.
        layer: Which of a name's layers; may be left out where there is but one.
        network: The network's name or weights file, where that has moved since training.
        n: Samples per picture; each of the first three gives an FID.
        temperature: Of the samples; 1 is the truth, lower shows less variety.
        fid: Feature space of the FID - auto, inception, NETWORK:LAYER or none.
        unconditional: Also train a flow of the same size that is told nothing, and give its bits.
        limit: At most so many pictures for samples and FID.
        seed: Of the samples.
        device: auto, cpu, cuda or mps.

    Example:
        invariances evaluate runs/resnet50_layer4
        invariances evaluate runs/resnet50_layer4 --checkpoint best --images photos/
        invariances evaluate cinn_alexnet_aae_conv5 --images ImageNetAnimalsValidation --n 3
        invariances evaluate -c configs/alexnet/base_eval.yaml -c configs/alexnet/eval/conv5.yaml
    """
    import json

    from invariances.cli.parsing import build_parser, check_configs, parse
    from invariances.system.errors import UserError

    _evaluate.__doc__ = evaluate.__doc__
    parser = build_parser(_evaluate, "invariances evaluate")
    parser.add_argument(
        "where", nargs="?", metavar="RUN_OR_NAME", help="The run's folder, or a flow's name; as --run."
    )
    parser.add_argument("-c", "--config", action="config", help="YAML file of these options.")
    check_configs(argv)
    given = parse(parser, argv)
    where, _ = given.pop("where"), given.pop("config")
    run = where or given.pop("run")
    given.pop("run", None)
    if run is None:
        raise UserError("name the folder of a run, or a flow that `invariances models list` shows")

    from invariances.evaluation.numbers import finite
    from invariances.recipes.evaluate_run import Evaluation, evaluate_run

    print(json.dumps(finite(evaluate_run(run, Evaluation(**given))), indent=2))
    return 0


def _evaluate(
    run: str | None = None,
    checkpoint: str | None = None,
    images: str | None = None,
    layer: str | None = None,
    network: str | None = None,
    n: int = 8,
    temperature: float = 1.0,
    fid: str = "auto",
    unconditional: bool = False,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Says which options there are, of which types."""
