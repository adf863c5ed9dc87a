"""Image models of torchvision: those with parallel branches, segmentation, optical flow, a detector's backbone."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from benchmarks.zoo.case import Case, Made, halves, in_halves

# name -> side of the image, side of the tiny one
CLASSIFIERS = {
    "googlenet": (224, 64),
    "inception_v3": (299, 96),
    "regnet_y_400mf": (224, 32),
    "densenet121": (224, 32),
    "shufflenet_v2_x1_0": (224, 32),
    "squeezenet1_1": (224, 64),
    "mnasnet1_0": (224, 64),
    "maxvit_t": (224, 224),
    "swin_v2_t": (256, 64),
}
SEGMENTATION = ("fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large")
QUICK = ("lraspp_mobilenet_v3_large",)


def classifier(name: str, tiny: bool) -> Made:
    """Return a classifier and a batch of images."""
    import torchvision

    side = CLASSIFIERS[name][tiny]
    arguments = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **arguments)
    return in_halves(model), (halves(1 if tiny else 8, 3, side, side),)


def segmentation(name: str, tiny: bool) -> Made:
    """Return a model that tells a class for each pixel."""
    import torchvision

    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=21)
    side = 32 if tiny else 256
    return in_halves(model), (halves(1, 3, side, side),)


class Flow(nn.Module):
    """Optical flow with few updates."""

    def __init__(self, model: nn.Module, updates: int) -> None:
        super().__init__()
        self.model = model
        self.updates = updates

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the flow from one image to another."""
        flows: list[Tensor] = self.model(first, second, num_flow_updates=self.updates)
        return flows[-1]


def raft(tiny: bool) -> Made:
    """Return RAFT with two updates, in float32, which its interpolation needs."""
    import torchvision

    model = torchvision.models.get_model("raft_small", weights=None)
    images = (halves(1, 3, 128, 128 if tiny else 256).float() for _ in range(2))
    return Flow(model, 1 if tiny else 2), tuple(images)


def pyramid(tiny: bool) -> Made:
    """Return a backbone with a pyramid of features."""
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    side = 64 if tiny else 320
    return in_halves(resnet_fpn_backbone(backbone_name="resnet18", weights=None)), (halves(1, 3, side, side),)


CASES = [
    *(Case(f"torchvision-{name}", "torchvision", partial(classifier, name), quick=name in QUICK) for name in CLASSIFIERS),
    *(Case(f"torchvision-{name}", "torchvision", partial(segmentation, name), quick=name in QUICK) for name in SEGMENTATION),
    Case("torchvision-raft_small", "torchvision", raft),
    Case("torchvision-resnet18-fpn", "torchvision", pyramid),
]
