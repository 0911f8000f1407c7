"""Published state dicts under published names → our networks: names, shapes, folded spectral normalisation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import AlexNet, ResNet

from invariances.autoencoder.bigae import BigAE
from invariances.autoencoder.biggan import BigGAN, UpsamplingConv
from invariances.autoencoder.dequantiser import Dequantiser
from invariances.autoencoder.lpips import LPIPS
from invariances.autoencoder.tiny import TinyAutoencoder
from invariances.flow.flow import ConditionalFlow
from invariances.system.errors import UserError

PLAIN, SPECTRAL, UPSAMPLING, IGNORED = "plain", "spectral", "upsampling", "ignored"


@dataclass(frozen=True)
class Rule:
    """How one of our entries comes from a checkpoint.

    Args:
        name: published; of a spectrally normalised weight without `_bar`, `_u`, `_v`.
        kind: plain (reshaped), spectral (folded), upsampling (folded, then made into an `UpsamplingConv`'s), or
            ignored (must be there, but is not needed).
    """

    name: str
    kind: str = PLAIN


_BLOCK = re.compile(r"blocks\.(\d+)\.(.*)")
_TRANSFORM = "transform."
_COUPLING = re.compile(r"coupling\.(first|second)\.([st])\.(.*)")
_GENERATOR_PARTS = {
    "class_embedding.": "linear.",
    "norm.": "ScaledCrossReplicaBN.",
    "attention.gamma": "attention.gamma",
}
_GENERATOR_SPECTRAL = {
    "first.": "G_linear.",
    "colour.": "colorize.",
    "attention.query.": "attention.theta.",
    "attention.key.": "attention.phi.",
    "attention.value.": "attention.g.",
    "attention.out.": "attention.o_conv.",
    "conv0.": "conv0.",
    "conv1.": "conv1.",
    "shortcut.": "conv_sc.",
    "norm0.scale.": "HyperBN.gamma_embed.",
    "norm0.shift.": "HyperBN.beta_embed.",
    "norm1.scale.": "HyperBN_1.gamma_embed.",
    "norm1.shift.": "HyperBN_1.beta_embed.",
}
_VGG_SLICES = (4, 9, 16, 23, 30)


def _flow(own: str, module: ConditionalFlow) -> Rule:
    if not own.startswith(_TRANSFORM):
        return Rule(_embedder(own, module))
    found = _BLOCK.fullmatch(own.removeprefix(_TRANSFORM))
    assert found is not None
    rest = found[2].replace("norm.", "norm_layer.")
    rest = rest.replace("permutation.order", "shuffle.forward_shuffle_idx")
    rest = rest.replace("permutation.back", "shuffle.backward_shuffle_idx")
    rest = _COUPLING.sub(
        lambda m: f"coupling.{m[2]}.{0 if m[1] == 'first' else 1}.main.{m[3]}",
        rest,
    )
    return Rule(f"flow.sub_layers.{found[1]}.{rest}")


def _embedder(own: str, module: ConditionalFlow) -> str:
    if len(module.representation_shape) == 1:
        return own
    _, _, index, leaf = own.split(".")
    stage, part = divmod(int(index), 3)
    stages = sum(name.endswith(".loc") for name, _ in module.embedder.named_parameters())
    if stage == stages:
        return f"embedder.dense_encode.sub_layers.0.{leaf}"
    return f"embedder.feature_layers.{stage}.sub_layers.{part}.{leaf}"


def _generator(own: str) -> Rule:
    for ours, theirs in _GENERATOR_PARTS.items():
        if own.startswith(ours):
            return Rule(theirs + own[len(ours) :])
    block = _BLOCK.fullmatch(own)
    prefix, rest = (f"GBlock.{block[1]}.", block[2]) if block else ("", own)
    for ours, theirs in _GENERATOR_SPECTRAL.items():
        if rest.startswith(ours):
            kind = PLAIN if rest.endswith("bias") else UPSAMPLING if ours == "conv0." else SPECTRAL
            return Rule(f"{prefix}{theirs}module.{rest[len(ours) :]}", kind)
    return Rule(prefix + rest.replace("norm0.", "HyperBN.bn.").replace("norm1.", "HyperBN_1.bn."))


def _autoencoder(own: str) -> Rule:
    if own.startswith("generator."):
        rule = _generator(own.removeprefix("generator."))
        return Rule("decoder.decoder." + rule.name, rule.kind)
    if own.startswith("classes."):
        return Rule(own.replace("classes.", "decoder.map_to_class_embedding.main."))
    return Rule(own.replace("encoder.resnet.", "encoder.model.").replace(".fc.", ".fc.sub_layers.0."))


def _dequantiser(own: str) -> Rule:
    part, _, rest = own.partition(".")
    return Rule(f"{ {'mean': 'mu_layer', 'logvar': 'logvar_layer'}.get(part, part) }.main.{rest}")


def _lpips(own: str) -> Rule:
    if own.startswith("weights."):
        return Rule(f"lin{own.removeprefix('weights.')}.model.1.weight")
    index = int(own.split(".")[1])
    stage = next(i for i, end in enumerate(_VGG_SLICES, 1) if index < end)
    return Rule(f"net.slice{stage}.{own.removeprefix('backbone.')}")


def rules(module: nn.Module, names: Iterable[str] = ()) -> dict[str, Rule]:
    """For each of the module's own entries, where it comes from. `names` are those of the checkpoint."""
    own = module.state_dict()
    if (
        isinstance(module, ConditionalFlow)
        and module.config.transform == "couplings"
        and not module.embedder.taught_first
    ):
        return {name: _flow(name, module) for name in own}
    if isinstance(module, (BigGAN, BigAE)):
        translate = _generator if isinstance(module, BigGAN) else _autoencoder
        found = {name: translate(name) for name in own}
        counters = {
            rule.name.replace("running_mean", "num_batches_tracked")
            for name, rule in found.items()
            if re.search(r"norm[01]\.running_mean", name)
        }
        return found | {f"({name})": Rule(name, IGNORED) for name in counters}
    if isinstance(module, Dequantiser):
        return {name: _dequantiser(name) for name in own}
    if isinstance(module, LPIPS):
        whole = any(name.startswith("net.") for name in names)
        return {name: _lpips(name) for name in own if whole or name.startswith("weights.")}
    if isinstance(module, (AlexNet, ResNet, TinyAutoencoder)) or hasattr(module, "layer_aliases"):
        return {name: Rule(name) for name in own}
    raise UserError(
        f"{type(module).__name__} is no published architecture; build one with invariances.zoo.build(name)."
    )


def load_published(module: nn.Module, state_dict: Mapping[str, Any]) -> nn.Module:
    """Fill `module` from a state dict with published names; strict.

    A dict with `state_dict` inside, and names behind `module.` (or, for classifiers, `model.`) are taken too.
    Spectral normalisation is folded: weight = weight_bar / σ, σ of one power iteration from `weight_u`.

    Args:
        module: of `invariances.zoo.build`.
        state_dict: published name -> tensor.

    Returns:
        The module, in eval mode.

    Raises:
        UserError: lists every missing, unexpected and misshaped entry; the module is then as it was.
    """
    state = _unwrapped(state_dict, module)
    plan = rules(module, state)
    own = module.state_dict()
    expected: dict[str, tuple[int, ...] | None] = {}
    for name, rule in plan.items():
        expected.update(_published_shapes(rule, own.get(name)))
    problems = _compare(expected, state)
    if problems:
        raise UserError(
            f"this checkpoint is not of {type(module).__name__} as built here: {'; '.join(problems)}."
        )
    filled = {name: _value(rule, state, own[name]) for name, rule in plan.items() if rule.kind != IGNORED}
    module.load_state_dict(filled, strict=False)  # every name and shape was compared above
    return module.eval()


def _unwrapped(state_dict: Mapping[str, Any], module: nn.Module) -> dict[str, Tensor]:
    inner = state_dict.get("state_dict")
    state = dict(inner if isinstance(inner, Mapping) else state_dict)
    prefixes = ["module."]
    if isinstance(module, (AlexNet, ResNet)):
        prefixes.append("model.")
    for prefix in prefixes:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise UserError(
            f"the checkpoint's entries {', '.join(wrong[:4])} are no tensors; give a state dict (name -> tensor)."
        )
    return state


def _published_shapes(rule: Rule, own: Tensor | None) -> dict[str, tuple[int, ...] | None]:
    if own is None:
        return {rule.name: None}
    shape = tuple(own.shape)
    if rule.kind == PLAIN:
        return {rule.name: shape}
    if rule.kind == UPSAMPLING:
        shape = (shape[1], shape[0], 3, 3)
    return {
        f"{rule.name}_bar": shape,
        f"{rule.name}_u": (shape[0],),
        f"{rule.name}_v": (shape[0],),
    }


def _compare(expected: Mapping[str, tuple[int, ...] | None], state: Mapping[str, Tensor]) -> list[str]:
    """What is wrong, in words: missing, unexpected and misshaped entries."""
    missing = [n for n in expected if n not in state and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in state if n not in expected]
    misshaped = [
        f"{name} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and shape is not None and _core(state[name].shape) != _core(shape)
    ]
    parts = (("missing", missing), ("unexpected", unexpected), ("misshaped", misshaped))
    return [f"{len(names)} {what}: {', '.join(names)}" for what, names in parts if names]


def _core(shape: Iterable[int]) -> list[int]:
    """The shape without its ones: (1, C, 1, 1) and (C,) are the same vector."""
    return [size for size in shape if size != 1]


def _value(rule: Rule, state: Mapping[str, Tensor], own: Tensor) -> Tensor:
    if rule.kind == PLAIN:
        value = state.get(rule.name)
        return torch.zeros_like(own) if value is None else value.reshape(own.shape).to(own.dtype)
    weight = fold_spectral(state[f"{rule.name}_bar"], state[f"{rule.name}_u"])
    weight = UpsamplingConv.folded(weight) if rule.kind == UPSAMPLING else weight
    return weight.reshape(own.shape).to(own.dtype)


def fold_spectral(weight: Tensor, u: Tensor) -> Tensor:
    """W / σ with v = n(Wᵀu), u' = n(Wv), σ = u'ᵀWv, n(a) = a / (‖a‖ + 1e-4); W as a matrix (O, rest)."""
    matrix, u = weight.double().flatten(1), u.double().flatten()

    def normalised(a: Tensor) -> Tensor:
        scaled: Tensor = a / (a.norm() + 1e-4)
        return scaled

    v = normalised(matrix.T @ u)
    sigma = normalised(matrix @ v) @ (matrix @ v)
    return (weight.double() / sigma).to(weight.dtype)
