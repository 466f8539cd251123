"""Well-known architectures with seeded random weights."""

from __future__ import annotations

from tools import networks

RANDOM = {
    "googlenet": lambda: networks.GoogLeNet(4),
    "vgg16": lambda: networks.Vgg16(4),
    "resnet50": lambda: networks.ResNet50(4, (2, 2, 2)),
    "inception": networks.Inception,
}
