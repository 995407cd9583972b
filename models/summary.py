"""What a network costs, computed from its structure: parameters, multiply-adds, bytes; and its fingerprint."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

from torch import Tensor

from models.keys import layer_of
from models.layers import Size
from models.network import Network
from models.weights import file_tensors

HEADER_BYTES = 20


@dataclass(frozen=True)
class LayerCost:
    """One row of `layer_table`.

    Attributes:
        index: Darknet layer number.
        kind: section kind.
        inputs, outputs: channels (inputs: summed over all inputs).
        size: (H, W) of the output.
        parameters: trainable numbers.
        macs: multiply-adds of its convolutions for one picture.
    """

    index: int
    kind: str
    inputs: int
    outputs: int
    size: Size
    parameters: int
    macs: int


def parameters(net: Network) -> int:
    """Number of trainable parameters."""
    return sum(tensor.numel() for tensor in net.parameters())


def layer_table(net: Network, size: Size | None = None) -> list[LayerCost]:
    """What each layer costs for one picture of `size` (H, W), by default the cfg's own. Runs nothing."""
    sizes = net.layer_sizes(size or net.image_size)
    convs = net.conv_modules
    work: dict[int, int] = {}
    for key, (height, width) in net.conv_sizes(size or net.image_size).items():
        number = layer_of(key)
        work[number] = work.get(number, 0) + convs[key].weight.numel() * height * width
    rows = []
    for number, (section, layer) in enumerate(zip(net.cfg.layers, net.layers)):
        rows.append(
            LayerCost(
                number,
                section.kind,
                sum(net.input_channels(number)),
                net.output_channels(number),
                sizes[number],
                sum(tensor.numel() for tensor in layer.parameters()),
                work.get(number, 0),
            )
        )
    return rows


def macs(net: Network, size: Size | None = None) -> int:
    """Multiply-adds of all convolutions for one picture of `size` (H, W). FLOPs are twice that."""
    return sum(row.macs for row in layer_table(net, size))


def weights_bytes(net: Network) -> int:
    """Size in bytes of the network's `.weights` file; a backbone counts with what its tensors take there."""
    return HEADER_BYTES + 4 * sum(tensor.numel() for _, tensor in file_tensors(net))


def megabytes(net: Network) -> float:
    """Size of the network's `.weights` file in MB (1e6 bytes)."""
    return weights_bytes(net) / 1e6


def fingerprint(net: Network) -> str:
    """sha256 over what decides the output: the cfg's structure and a checksum (CRC-32) of every tensor as float32.

    Names, training keys, and the way numbers are written do not count; a `.pt` and a `.weights` of one network agree.
    It tells networks apart that somebody trained or cut, not those that somebody forged.
    """
    digest = hashlib.sha256(repr(net.cfg.structure()).encode())
    for name, tensor in file_tensors(net):
        digest.update(f"{name} {tensor.numel()} {zlib.crc32(_as_written(tensor)):08x}\n".encode())
    return digest.hexdigest()


def full_digest(net: Network) -> str:
    """sha256 over the same, but of every byte of the tensors, which takes several times as long.

    What earlier versions called a network by in lineages, and what keys of ablations are made of.
    """
    digest = hashlib.sha256(repr(net.cfg.structure()).encode())
    for name, tensor in file_tensors(net):
        digest.update(name.encode())
        digest.update(_as_written(tensor))
    return digest.hexdigest()


def _as_written(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in a `.weights` file."""
    values = tensor.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False)
    return values.reshape(-1).data
