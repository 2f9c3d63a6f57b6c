"""Blocks that both networks are made of.

Tensors are (N, C, z, y, x). `channels_last_3d` makes training 1.3 to 1.5 times as fast on a CPU;
oneDNN is used from some 20,000 values per slice on, or for more than one crop at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvUnit(nn.Sequential):
    """Convolution, batch normalisation, rectifier with slope `leak` below 0."""

    def __init__(self, n_in: int, n_out: int, kernel: int = 3, stride: int = 1,
                 leak: float = 0.0) -> None:
        rectifier = nn.LeakyReLU(leak, inplace=True) if leak else nn.ReLU(inplace=True)
        super().__init__(
            nn.Conv3d(n_in, n_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm3d(n_out), rectifier,
        )


class Residual(nn.Module):
    """Two 3^3 convolutions and a skip connection (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvUnit(channels, channels)
        self.second = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm3d(channels))

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(features + self.second(self.first(features)))


class DarknetResidual(nn.Module):
    """A 1^3 convolution to half the channels, a 3^3 one back, a skip connection (YOLOv3)."""

    def __init__(self, channels: int, leak: float = 0.1) -> None:
        super().__init__()
        self.units = nn.Sequential(
            ConvUnit(channels, channels // 2, 1, leak=leak),
            ConvUnit(channels // 2, channels, 3, leak=leak))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.units(features)


def chain(block: type[nn.Module], channels: int, count: int) -> nn.Sequential:
    """Return `count` blocks one after the other."""
    return nn.Sequential(*(block(channels) for _ in range(count)))


def fast_layout(module: nn.Module) -> nn.Module:
    """Return the module with its kernels laid out channels last."""
    return module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def crops_tensor(volumes: Tensor) -> Tensor:
    """Return crops (N, z, y, x) as (N, 1, z, y, x), channels last."""
    return volumes[:, None].contiguous(memory_format=torch.channels_last_3d)
