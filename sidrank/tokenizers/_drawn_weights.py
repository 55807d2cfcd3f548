"""Weights of linear layers drawn from a generator of one's own, on any device."""

import torch
from torch import Tensor, nn

__all__ = ["draw_linear_layers", "drawn"]


def drawn(parameter: Tensor, deviation: float, generator: torch.Generator | None) -> None:
    """Fill a parameter with normal numbers, the same on every device.

    Args:
        parameter: What is filled, in place; on the meta device nothing is drawn.
        deviation: Standard deviation.
        generator: Where the numbers come from, on the CPU; None is the global one.
    """
    if parameter.is_meta:
        return
    with torch.no_grad():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, device="cpu") * deviation)


def draw_linear_layers(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw the weights of all linear layers, with unit variance of what they put out.

    Args:
        module: Where the layers are, at any depth; its layer norms become the identity.
        generator: Where the numbers come from, on the CPU; None is the global one.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            drawn(layer.weight, layer.in_features**-0.5, generator)
            for name, parameter in layer.named_parameters():
                if name == "bias":  # there may be none
                    nn.init.zeros_(parameter)
        elif isinstance(layer, nn.LayerNorm):
            layer.reset_parameters()
