"""`invariances fit-autoencoder`: the complete code of your own pictures."""

from __future__ import annotations


def fit_autoencoder(
    images: list[str],
    output: str = "runs/autoencoder",
    size: int = 64,
    latent_dim: int = 128,
    width: int = 32,
    max_width: int = 256,
    blocks: int = 1,
    steps: int = 20_000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    ema: float = 0.999,
    flip: bool = True,
    shift: int = 2,
    views: int = 1,
    kl: float = 1e-5,
    network: str | None = None,
    layers: list[str] | None = None,
    weights: str | None = None,
    perceptual: float = 0.1,
    perceptual_start: float = 0.0,
    adversarial: float = 0.0,
    adversarial_start: float = 0.6,
    held_out: float = 0.1,
    skip_broken: bool = False,
    precision: str = "32-true",
    validate_every: int = 1000,
    resume: bool = False,
    seed: int = 0,
) -> None:
    """Train a VAE on a folder of pictures: L1 + perceptual distance + KL, and a critic of patches.

    The folder of the run keeps autoencoder.safetensors (averaged weights), metrics.csv, samples/ with held-out
    pictures above their reconstructions, and checkpoints/last.ckpt. Ctrl-C and SIGTERM save; --resume true goes on.

    Args:
        images: Folders of pictures.
        output: Folder of the run.
        size: Side of the pictures in pixels: 32, 64 or 128.
        latent_dim: Length of the code.
        width: Channels at half resolution; they double at every halving.
        max_width: Most channels of any layer.
        blocks: Residual blocks per resolution.
        steps: Training steps.
        batch_size: Pictures per step.
        learning_rate: The highest; it rises over 200 steps and falls to zero along a cosine.
        ema: Decay of the averaged weights, which are the ones kept.
        flip: Mirror pictures at random.
        shift: Move pictures at random by up to so many pixels.
        views: Random crops of each picture to learn from; some tens help where there are only hundreds of pictures.
        kl: Weight of the KL divergence in nats per picture.
        network: Network whose layers compare pictures (a name as for `invariances layers`); none for pixels alone.
        layers: Its layers, early ones for texture.
        weights: Its weights file.
        perceptual: Weight of the perceptual distance.
        perceptual_start: Share of the steps after which it joins.
        adversarial: Strength of the patch critic, as a share of the other gradients; 0 turns it off.
        adversarial_start: Share of the steps after which it joins.
        held_out: Share of the pictures that is only looked at.
        skip_broken: Leave broken pictures out, named and counted, instead of stopping.
        precision: Of Lightning: 32-true, or bf16-mixed where the processor has it (about twice as fast).
        validate_every: Steps between looks at held-out pictures, each with a checkpoint.
        resume: Go on with the run in the output folder.
        seed: Of weights, order and noise.

    Example:
        invariances fit-autoencoder photos/ --output runs/vae --size 64 --steps 20000
        invariances fit-autoencoder photos/ --network resnet18 --layers layer1 layer2 --adversarial 0.25
    """
    import sys
    from pathlib import Path

    from invariances.autoencoder.vae import VAE
    from invariances.data.images import ImageFolder
    from invariances.representation.representation import Representation
    from invariances.system.errors import UserError
    from invariances.system.files import check_writable
    from invariances.training import autoencoder as autoencoder_training

    folder = Path(output)
    if (folder / "autoencoder.safetensors").exists() and not resume:
        raise UserError(
            f"folder {output!r} holds an autoencoder already; go on with --resume true, or choose another --output"
        )
    if (network is None) != (layers is None):
        raise UserError("--network and --layers belong together; give both, or neither for pixels alone")
    check_writable(folder)
    train, held = ImageFolder(images, size=size, skip_broken=skip_broken).split(held_out, seed=seed)
    if views != 1:
        train = train.cropped(views)
    eyes = [Representation.many(network, layers, weights=weights, size=size)] if network and layers else []
    objective = autoencoder_training.Objective(
        perceptual=perceptual,
        perceptual_start=perceptual_start,
        kl=kl,
        adversarial=adversarial,
        adversarial_start=adversarial_start,
    )
    schedule = autoencoder_training.Schedule(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ema=ema,
        flip=flip,
        shift=shift,
        seed=seed,
    )
    autoencoder_training.fit_autoencoder(
        train.tensor(),
        held.tensor(),
        folder,
        vae=VAE(size, latent_dim, width, max_width, blocks),
        perceptual=eyes,
        objective=objective,
        schedule=schedule,
        precision=precision,
        validate_every=validate_every,
        resume=resume,
    )
    kept = folder / "autoencoder.safetensors"
    print(f"done: {kept}; next: invariances fit --autoencoder {kept} ...", file=sys.stderr)
