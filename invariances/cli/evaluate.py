"""`invariances evaluate`: the numbers and pictures of a run, or of a flow that has a name."""

from __future__ import annotations


def evaluate(argv: list[str]) -> int:
    """Numbers and pictures of a trained run, or of a published or shipped flow, on pictures kept out of training.

    Prints JSON, and writes it to evaluation.json with evaluation.png and evaluation.html: in the run's folder, or in
    evaluations/ for a name. Needs no training data: a run knows by content which pictures it was trained on, and
    leaves them out. Options can stand in YAML files too (-c, several, the last wins).

    Example:
        invariances evaluate runs/resnet50_layer4
        invariances evaluate runs/resnet50_layer4 --checkpoint best --images photos/
        invariances evaluate cinn_alexnet_aae_conv5 --images ImageNetAnimalsValidation --n 3
        invariances evaluate -c configs/alexnet/base_eval.yaml -c configs/alexnet/eval/conv5.yaml
    """
    import json

    from invariances.cli.parsing import check_configs, options_parser, parse, with_flags
    from invariances.evaluation.config import Evaluation
    from invariances.system.errors import UserError

    parser = options_parser(Evaluation, evaluate.__doc__, "evaluate", "RUN_OR_NAME [options]", "progress")
    parser.add_argument(
        "where", nargs="?", metavar="RUN_OR_NAME", help="The run's folder, or a flow's name; as --run."
    )
    parser.add_argument("--run", type=str, default=None, help="As RUN_OR_NAME, for YAML files.")
    check_configs(argv)
    given = parse(with_flags(parser), argv)
    del given["config"]
    run = given.pop("run")
    run = given.pop("where") or run
    if run is None:
        raise UserError("name the folder of a run, or a flow that `invariances models list` shows")

    from invariances.evaluation.numbers import finite
    from invariances.recipes.evaluate_run import evaluate_run

    print(json.dumps(finite(evaluate_run(run, Evaluation(**given))), indent=2))
    return 0
