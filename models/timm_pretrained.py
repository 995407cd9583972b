"""The weights that a `[timm]` section begins with."""

from __future__ import annotations

import zipfile
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import UserError
from common.log import log
from common.reading import need_file
from models.archive import MAX_BYTES
from models.cfg import Section
from models.content import need_state
from models.timm_section import Backbone, feature_strides
from models.unpickle import read_torch_file
from models.weights import need_sound


@torch.no_grad()
def load_pretrained(layer: Backbone, section: Section) -> None:
    """Fill a fresh backbone as its section's `pretrained=` says; nothing happens without one.

    timm's networks expect pictures normalised by mean and deviation, ours get 0..1: the first convolution takes the
    difference over, exactly but for its zero-padded border.

    Raises:
        UserError: the weights are not there, cannot be fetched, or do not fit.
    """
    wanted = section.str("pretrained", "0")
    if wanted in ("", "0"):
        return
    if layer.widths:
        raise section.error(
            "pretrained= belongs to the uncut backbone, but widths= says that this one was pruned",
            "pretrained",
            todo="remove one of them",
        )
    overlay: dict[str, Any] = {}
    if wanted != "1":
        # Read here: timm before 1.0.23 runs the pickle that such a file is.
        overlay = {"pretrained_cfg_overlay": {"state_dict": _read_state(wanted), "hf_hub_id": None, "url": ""}}
    name = section.str("model")
    strides = feature_strides(name, section)
    try:
        import timm

        indices = [strides[stride] for stride in layer.features]
        full = timm.create_model(
            name, pretrained=True, features_only=True, in_chans=layer.in_channels, out_indices=indices, **overlay
        )
    except Exception as error:  # whatever the downloader raises when there is no network
        raise section.error(
            f"pretrained={wanted}: the weights of {name} cannot be had: {str(error)[:200]}",
            "pretrained",
            todo="fetch them where there is a network and give the file as pretrained=, "
            "or remove pretrained= to start from random weights",
        ) from error
    state = full.state_dict()
    layer.model.load_state_dict({key: state[key] for key in layer.model.state_dict()})
    given = timm.get_pretrained_cfg(name)
    if given is not None and layer.in_channels == 3:
        _take_over_normalisation(layer.model, given.mean, given.std)
    log.info("%s: %s starts from pretrained weights (%s)", section.source, name, wanted)


def _read_state(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a file of timm's weights; nothing in it is run.

    Raises:
        UserError: it does not exist, is damaged, or holds anything but tensors and plain data.
    """
    need_file(path, MAX_BYTES, "give the path of timm's weights for this model, or 1 to fetch them")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            content: Any = load_file(path)
        elif zipfile.is_zipfile(path):
            content = read_torch_file(path)
        else:  # torch's format before 1.6
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged archive makes its reader say
        raise UserError(
            "is no file of weights: it is damaged, or holds more than tensors and plain data; nothing in it was run",
            where=path,
            todo="fetch it again",
        ) from error
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):  # as training programs keep them
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    need_state(content, "what it holds", path)
    for name, tensor in content.items():
        need_sound(tensor, name, path)
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _take_over_normalisation(model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Make the first convolution see ``(x - mean) / std`` in x; what it lacks goes to its bias or its BatchNorm."""
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    first = convs[0]
    weight = first.weight.double() / torch.tensor(std).double().view(1, -1, 1, 1)
    missing = (weight * torch.tensor(mean).double().view(1, -1, 1, 1)).sum((1, 2, 3))
    first.weight.copy_(weight)
    if first.bias is not None:
        first.bias.sub_(missing.to(first.bias.dtype))
    elif norms and norms[0].running_mean is not None and norms[0].num_features == first.out_channels:
        norms[0].running_mean.add_(missing.to(norms[0].running_mean.dtype))
