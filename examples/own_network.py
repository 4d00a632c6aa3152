"""Any torch module is a source: its layers in measured order, features of several at once, moments, and scores.

python examples/own_network.py
"""

import numpy as np
import torch

import headstart as hs

network = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3, stride=2),
    torch.nn.ReLU(),
    torch.nn.Conv2d(16, 32, 3, stride=2),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(),
)
source = hs.Source.from_module(network, name="mine", size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)
for layer in source.layers:
    print(f"{layer.name:3} {layer.kind:18} {layer.shape!s:14} {layer.macs:>9,} multiply-adds", "*" * layer.candidate)

# Two classes that differ in colour and in texture.
rng = np.random.default_rng(0)
pictures = rng.integers(0, 120, (80, 32, 32, 3), dtype=np.uint8)
pictures[40:, ::2, :, 0] += 100
data = hs.Dataset.from_arrays(pictures, ["plain"] * 40 + ["striped"] * 40)

bank = hs.extract(source, data, layers="auto")  # one forward pass for all layers; a second call computes nothing
again = hs.extract(source, data, layers="auto")
print(f"computed {bank.computed} rows, then {again.computed}")
for layer in bank.layers:
    moments = bank.summarise(layer, data)  # mergeable, subtractable; everything below follows from it
    print(f"{layer:3} LogME {hs.score('logme', moments):6.3f}   H-score {hs.score('h_score', moments):.3f}")
