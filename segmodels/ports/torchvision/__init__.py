"""torchvision 0.29.2: networks on other heads and backbones than the papers', with its figures."""

from segmodels.paper import Published

DESCRIPTION = "torchvision's description of its COCO_WITH_VOC_LABELS_V1 weights"
MOBILENET = (  # MobileNetV3-Large
    (r"^backbone\.0\.", "backbone.stem."),
    (r"^backbone\.16\.", "backbone.head."),
    (r"^backbone\.(\d+)\.", lambda m: f"backbone.blocks.{int(m[1]) - 1}."),
)


def published(miou: float) -> tuple[Published, ...]:
    """Return torchvision's figure; its reference code scales image and label."""
    protocol = "short side 520, labels too"
    return (Published(miou, "coco (VOC labels)", "val", protocol, DESCRIPTION),)
