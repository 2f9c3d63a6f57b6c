"""The one-stage detector: a small network that finds and names particles in one pass.

`settings`, `labels`, `view`, `sampling` and `matching` need numpy only; the others need PyTorch
(extra `detector`) and are imported where it is used, so that this package imports without it.

view      a tomogram in the network's voxels and grey values, read piece by piece
labels    training tomograms with the coordinates and classes of their particles
sampling  crops for training: balanced over classes, mirrored, with other contrast
networks  blocks of the networks
points    the default: a heat map of centres, of classes, and offsets, at half the resolution
yolo      the published detector: anchors on a grid (docs/ALGORITHM.md)
train     losses down, a moving average of the weights, checkpoints, thresholds
weights   the file that holds a detector
predict   tiles in, picks out
"""

NEEDS_TORCH = "the detector needs PyTorch: pip install scipion-em-faml[detector]"
