"""`invariances fit-autoencoder`: the complete code of your own pictures."""

from __future__ import annotations

import shlex
import sys

SHORT = {
    "--output": "run.output",
    "--resume": "run.resume",
    "--device": "run.device",
    "--seed": "run.seed",
    "--precision": "run.precision",
    "--validate_every": "run.checkpoint_every",
    **{
        f"--{name}": f"code.{name}" for name in ("kind", "size", "latent_dim", "width", "max_width", "blocks")
    },
    **{
        f"--{name}": f"schedule.{name}"
        for name in ("steps", "batch_size", "learning_rate", "ema", "flip", "shift")
    },
    **{
        f"--{name}": f"objective.{name}"
        for name in ("kl", "perceptual", "perceptual_start", "adversarial", "adversarial_start")
    },
    **{f"--{name}": f"eyes.{name}" for name in ("network", "layers", "weights")},
    **{f"--{name}": f"data.{name}" for name in ("held_out", "skip_broken", "views")},
}


def fit_autoencoder(argv: list[str]) -> int:
    """Train an autoencoder on folders of pictures: L1 + perceptual distance + KL, and a critic of patches.

    A VAE gives vectors, for flows of any preset but maps; --kind spatial gives maps, for `fit --preset maps`. Photos
    look like photos only with a perceptual distance: name a network and its layers, or LPIPS.

    The folder of the run keeps autoencoder.safetensors (averaged weights), metrics.csv, samples/ with held-out
    pictures above their reconstructions, and checkpoints/last.ckpt. Ctrl-C and SIGTERM save; --resume goes on.

    Example:
        invariances fit-autoencoder photos/ --output runs/vae --size 64 --steps 20000
        invariances fit-autoencoder photos/ --network resnet18 --layers layer1 layer2 --adversarial 0.25
        invariances fit-autoencoder photos/ --kind spatial --size 96 --network alexnet_animals --layers conv1 conv3
        invariances fit-autoencoder photos/ --network lpips --weights alexnet_features_lpips.safetensors
        invariances fit-autoencoder photos/ --output runs/vae --resume
    """
    from invariances.cli.parsing import (
        check_configs,
        explained,
        options_parser,
        with_flags,
        with_short_words,
        words_of,
    )
    from invariances.system.errors import UserError
    from invariances.training.autoencoder_config import AutoencoderConfig
    from invariances.training.config import instances

    words = "FOLDER [FOLDER ...] [options]"
    parser = options_parser(AutoencoderConfig, fit_autoencoder.__doc__, "fit-autoencoder", words)
    parser.add_argument("folders", nargs="*", type=str, help="Folders of pictures.")
    with_short_words(with_flags(parser), SHORT)
    check_configs(argv)
    with explained(parser):
        found = instances(parser, parser.parse_args(words_of(parser, argv)))
    if not found.folders and found.data.images is None:
        raise UserError("folders of pictures are missing; see --help for an example")

    from invariances.recipes.own_autoencoder import train
    from invariances.training.stopping import Stopped

    try:
        kept = train(found, found.folders)
    except KeyboardInterrupt as interrupt:
        stop = interrupt.__cause__
        if not isinstance(stop, Stopped):
            raise
        resume = [] if "--resume" in argv else ["--resume"]
        command = shlex.join(["invariances", "fit-autoencoder", *argv, *resume])
        print(f"stopped after step {stop.step}; go on with:\n{command}", file=sys.stderr)
        return 128 + stop.signum
    preset = " --preset maps" if found.code.kind == "spatial" else ""
    print(f"done: {kept}; next: invariances fit --autoencoder {kept}{preset} ...", file=sys.stderr)
    return 0
