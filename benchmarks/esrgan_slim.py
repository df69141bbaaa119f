"""A foreign upscaler to compare with: ESRGAN-slim of the npm package @upscalerjs/esrgan-slim (MIT), weights included.

The only neural upscaler found whose weights come with a package of a registry. `npm pack @upscalerjs/esrgan-slim`,
unpacked into `.cache/esrgan_slim`, makes it part of the scenario; it has whole scales only, and was trained on DIV2K.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

FOLDER = Path(__file__).resolve().parents[1] / ".cache" / "esrgan_slim" / "package" / "models"
SCALES = (2, 3, 4, 8)


class EsrganSlim:
    """Run one of its Keras graphs: convolutions, additions, concatenations and one enlargement.

    Shapes: call: pictures (b, 3, h, w) in 0..255 to (b, 3, scale h, scale w).
    """

    def __init__(self, scale: int, folder: Path = FOLDER) -> None:
        document = json.loads((folder / f"x{scale}" / "model.json").read_text("utf-8"))
        self._layers = document["modelTopology"]["model_config"]["config"]["layers"]
        numbers = np.fromfile(folder / f"x{scale}" / "group1-shard1of1.bin", dtype="<f4")
        self._weights, start = {}, 0
        for row in document["weightsManifest"][0]["weights"]:
            size = int(np.prod(row["shape"]))
            self._weights[row["name"]] = torch.from_numpy(numbers[start : start + size].copy()).reshape(row["shape"])
            start += size

    @torch.no_grad()
    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Enlarge a batch."""
        values: dict[str, torch.Tensor] = {}
        for layer in self._layers:
            name, kind = layer["config"]["name"], layer["class_name"]
            given = [values[node[0]] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else [pictures]
            values[name] = self._run(kind, layer["config"], given)
        return values[self._layers[-1]["config"]["name"]]

    def _run(self, kind: str, config: dict[str, Any], given: list[torch.Tensor]) -> torch.Tensor:
        """Compute one layer.

        Raises: ValueError for a kind that these graphs do not have.
        """
        if kind == "InputLayer":
            return given[0]
        if kind == "Conv2D":
            kernel = self._weights[f"{config['name']}/kernel"].permute(3, 2, 0, 1)
            return F.conv2d(given[0], kernel, self._weights[f"{config['name']}/bias"], padding="same")
        if kind == "Activation" and config["activation"] == "relu":
            return F.relu(given[0])
        if kind == "Concatenate":
            return torch.cat(given, 1)
        if kind == "Add":
            return torch.stack(given).sum(0)
        if kind == "UpSampling2D" and config["interpolation"] == "nearest":
            return F.interpolate(given[0], scale_factor=tuple(float(side) for side in config["size"]))
        raise ValueError(f"a layer {kind} is not known")
