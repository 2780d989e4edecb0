"""Pictures to the network's square input, and the boxes that move with them."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pi05_train.errors import UserError
from pi05_train.samples.schema import Box


@dataclass(frozen=True)
class BoxTransform:
    """An affine map of image positions (x, y), both as fractions of the picture, from before to after a change."""

    matrix: NDArray[np.float64]
    """[2, 3]: position_after = matrix[:, :2] @ position_before + matrix[:, 2]."""

    def then(self, later: BoxTransform) -> BoxTransform:
        """This change followed by another."""
        rows = np.vstack([self.matrix, [0.0, 0.0, 1.0]])
        return BoxTransform(later.matrix @ rows)

    def apply(self, box: Box) -> Box | None:
        """The upright box around the moved one, clipped to the picture; None where it left the picture."""
        corners = np.array([[x, y, 1.0] for x in (box.x_min, box.x_max) for y in (box.y_min, box.y_max)])
        moved = corners @ self.matrix.T
        (x_min, y_min), (x_max, y_max) = np.clip(moved.min(0), 0, 1), np.clip(moved.max(0), 0, 1)
        if x_min >= x_max or y_min >= y_max:
            return None
        return replace(box, y_min=float(y_min), x_min=float(x_min), y_max=float(y_max), x_max=float(x_max))


IN_PLACE = BoxTransform(np.eye(2, 3))


def decode_jpeg(data: bytes, where: str = "image") -> Tensor:
    """uint8 [3, height, width], RGB, as Pillow decodes it; a broken file is refused, named `where`.

    Colours lie last in memory, as the decoder writes them: turning them round is left to the training device.
    """
    try:
        return torch.from_numpy(_decoded(data)).permute(2, 0, 1)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise UserError(where, got=f"{len(data)} bytes ({error})", expected="a JPEG", do="write it anew") from error


def _decoded(data: bytes) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]. simplejpeg gives Pillow's numbers in half the time.

    It refuses a file where libjpeg had to guess, and has other numbers for CMYK: there Pillow decides.
    """
    try:
        if simplejpeg.decode_jpeg_header(data)[2] != "CMYK":
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
            return pixels
    except ValueError:
        pass
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def resize_with_pad(image_CHW: Tensor, height: int, width: int) -> tuple[Tensor, BoxTransform]:
    """The uint8 picture at [3, height, width], aspect kept, centred on black; and where its boxes went.

    Antialiased bilinear of PIL, sizes rounded down, an odd row or column of padding at the bottom or right: openpi's
    data pipeline bit for bit (`openpi_client/image_tools.py`).
    """
    _, old_height, old_width = image_CHW.shape
    if (old_height, old_width) == (height, width):
        return image_CHW, IN_PLACE
    ratio = max(old_width / width, old_height / height)
    new_height, new_width = int(old_height / ratio), int(old_width / ratio)
    picture = Image.fromarray(image_CHW.permute(1, 2, 0).contiguous().numpy())
    resized = np.asarray(picture.resize((new_width, new_height), Image.Resampling.BILINEAR))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    padded = np.zeros((height, width, 3), dtype=np.uint8)
    padded[top : top + new_height, left : left + new_width] = resized
    matrix = np.array([[new_width / width, 0.0, left / width], [0.0, new_height / height, top / height]])
    return torch.from_numpy(padded).permute(2, 0, 1), BoxTransform(matrix)
