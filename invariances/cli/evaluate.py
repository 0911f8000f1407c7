"""`invariances evaluate`: the numbers and pictures of a run."""

from __future__ import annotations


def evaluate(
    folder: str,
    network: str | None = None,
    images: str | None = None,
    n: int = 8,
    temperature: float = 1.0,
    fid: str = "auto",
    unconditional: bool = False,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Numbers and pictures of a trained run, on the pictures kept out of its training.

    Prints JSON, and writes it to FOLDER/evaluation.json with evaluation.png and evaluation.html beside it.

    Args:
        folder: The run's folder.
        network: The network's name or weights file, where that has moved since training.
        images: Another folder of pictures to evaluate on.
        n: Samples per picture.
        temperature: Of the samples; 1 is the truth, lower shows less variety.
        fid: Feature space of the FID - auto, inception, NETWORK:LAYER or none.
        unconditional: Also train a flow of the same size that is told nothing, and give its bits.
        limit: At most so many pictures for samples and FID.
        seed: Of the samples.
        device: auto, cpu, cuda or mps.

    Example:
        invariances evaluate runs/resnet50_layer4
        invariances evaluate runs/resnet50_layer4 --fid tf_efficientnet_lite0:global_pool --unconditional
    """
    import json

    from invariances.evaluation.numbers import finite
    from invariances.recipes.evaluate_run import evaluate_run

    result = evaluate_run(
        folder,
        network=network,
        images=images,
        n=n,
        temperature=temperature,
        fid=fid,
        unconditional=unconditional,
        limit=limit,
        seed=seed,
        device=device,
    )
    print(json.dumps(finite(result), indent=2))
