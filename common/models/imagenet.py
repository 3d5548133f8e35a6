"""The networks for ImageNet's large images: torchvision's definitions, with our initial weights."""

from __future__ import annotations

from torch import nn


def torchvision_model(shape: tuple[int, int, int], classes: int, name: str) -> nn.Module:
    """A model of torchvision's by its name, from images of `shape` (3, H, W) to `classes`.

    resnet18, resnet34, resnet50: a 7 x 7 convolution with stride 2 and a maximum pooling before the
    first stage (He et al., 1512.03385; in ResNet-50 the stride is the 3 x 3 convolution's).
    vgg16_bn: three linear layers with dropout behind the convolutions (Simonyan and Zisserman,
    1409.1556).
    """
    from torchvision import models

    model = models.get_model(name, weights=None, num_classes=classes)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # a hook on the layer before sees its own output
    return model
