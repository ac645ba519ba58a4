"""StyleRes, e4e and StyleGAN2 written down once more from their papers: numpy, float64, formula by formula.

Nothing here is imported from the project and nothing is shared with it but the names of the weights, which are the official
ones. It is slow, and only as large as the smallest model needs. Legend: C O I channels, H W, D width of W, L rows of W+.

    Karras et al. 2020 (StyleGAN2), arXiv 1912.04958    modulation, demodulation, skip connections
    Tov et al. 2021 (e4e), arXiv 2102.02766             rows as differences from the first
    Pehlivan et al. 2023 (StyleRes), arXiv 2212.14359   E1, E2, Eq. 3 with the released model's gate
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray
FIR = np.outer([1.0, 3.0, 3.0, 1.0], [1.0, 3.0, 3.0, 1.0]) / 64


def drawn(name: str, shape: tuple[int, ...], scale: float, offset: float, positive: bool) -> Array:
    """A weight: normal numbers from a generator that its name seeds (MT19937, the same everywhere)."""
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return (np.abs(normal) if positive else normal) * scale + offset


@dataclass
class Weights:
    """Gives weights by name, and remembers which were asked for, how large, and from which numbers they were drawn."""

    asked: dict[str, tuple[tuple[int, ...], float, float, bool]] = field(default_factory=dict)

    def __call__(self, name: str, *shape: int, scale: float = 1.0, offset: float = 0.0, positive: bool = False) -> Array:
        self.asked[name] = (shape, scale, offset, positive)
        return drawn(name, shape, scale, offset, positive)


@dataclass(frozen=True)
class Sizes:
    """32 px, features at 16 px: the smallest model that has every part."""

    resolution: int = 32
    channels: tuple[tuple[int, int], ...] = ((4, 8), (8, 8), (16, 8), (32, 8))
    width: int = 16
    encoder: int = 16
    inner: int = 8
    residual: int = 4
    place: int = 16


# ------------------------------------------------------------------------------------------------------------ building blocks


def correlate(x_IHW: Array, w_OIkk: Array, stride: int = 1, pad: int = 0) -> Array:
    """What deep learning calls a convolution: the kernel is not turned round."""
    x = np.pad(x_IHW, ((0, 0), (pad, pad), (pad, pad)))
    k = w_OIkk.shape[-1]
    rows, columns = (x.shape[1] - k) // stride + 1, (x.shape[2] - k) // stride + 1
    out = np.zeros((w_OIkk.shape[0], rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = np.tensordot(w_OIkk, window, axes=3)
    return out


def conv(weights: Weights, name: str, x: Array, out: int, k: int, *, stride: int = 1, bias: bool = True) -> Array:
    """A plain convolution that keeps the size but for its stride."""
    w = weights(f"{name}.weight", out, len(x), k, k, scale=1 / (len(x) * k * k) ** 0.5)
    y = correlate(x, w, stride, k // 2)
    return y + weights(f"{name}.bias", out, scale=0.1)[:, None, None] if bias else y


def leaky(x: Array, slope: float) -> Array:
    return np.where(x >= 0, x, slope * x)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def normalised(weights: Weights, name: str, x: Array) -> Array:
    """Batch normalisation as it is after training."""
    count = len(x)
    mean = weights(f"{name}.running_mean", count, scale=0.1)
    var = weights(f"{name}.running_var", count, scale=0.2, offset=1.0, positive=True)
    gain = weights(f"{name}.weight", count, scale=0.1, offset=1.0)
    bias = weights(f"{name}.bias", count, scale=0.1)
    return ((x.T - mean) / np.sqrt(var + 1e-5) * gain + bias).T


def prelu(weights: Weights, name: str, x: Array) -> Array:
    return np.where(x >= 0, x, (x.T * weights(f"{name}.weight", len(x), scale=0.05, offset=0.25)).T)


def equalised(weights: Weights, name: str, x_D: Array, out: int, *, bias_offset: float = 0.0) -> Array:
    """A linear layer whose weights are scaled when they are used (Karras et al. 2018, section 4.1)."""
    w = weights(f"{name}.weight", out, len(x_D))
    return w @ x_D / len(x_D) ** 0.5 + weights(f"{name}.bias", out, scale=0.1, offset=bias_offset)


def enlarged(x: Array, side: int) -> Array:
    """Bilinear, the corners of both grids on one another."""
    at = np.arange(side) * (x.shape[1] - 1) / (side - 1)
    low = np.minimum(np.floor(at).astype(int), x.shape[1] - 2)
    share = at - low
    rows = x[:, low] * (1 - share)[None, :, None] + x[:, low + 1] * share[None, :, None]
    return rows[:, :, low] * (1 - share) + rows[:, :, low + 1] * share


# ----------------------------------------------------------------------------------------------------------------- StyleGAN2


def filtered(x: Array, before: int, after: int, gain: float) -> Array:
    x = np.pad(x, ((0, 0), (before, after), (before, after)))
    return np.stack([correlate(one[None], FIR[None, None] * gain)[0] for one in x])


def spread(x: Array, side: int) -> Array:
    """Zeros between the pixels."""
    y = np.zeros((len(x), side, side))
    y[:, ::2, ::2] = x
    return y


def modulated(weights: Weights, name: str, x: Array, row_D: Array, out: int, side: int, *, up: bool) -> Array:
    """Modulate by the style, demodulate to unit norm, convolve; noise, bias, leaky ReLU with gain sqrt(2), clamp."""
    style = equalised(weights, f"{name}.affine", row_D, len(x), bias_offset=1.0)
    w = weights(f"{name}.weight", out, len(x), 3, 3) * style[None, :, None, None]
    w = w / np.sqrt((w**2).sum(axis=(1, 2, 3), keepdims=True) + 1e-8)
    if up:
        # Transposed convolution with stride 2: a true convolution, of all overlaps, with zeros between the pixels.
        wide = np.pad(spread(x, 2 * x.shape[1] - 1), ((0, 0), (2, 2), (2, 2)))
        x = filtered(correlate(wide, w[:, :, ::-1, ::-1]), 1, 1, 4.0)
    else:
        x = correlate(x, w, pad=1)
    noise = weights(f"{name}.noise_const", side, side) * weights(f"{name}.noise_strength", scale=0.1)
    x = x + noise + weights(f"{name}.bias", out, scale=0.1)[:, None, None]
    return np.clip(leaky(x, 0.2) * 2**0.5, -256, 256)


def to_rgb(weights: Weights, name: str, x: Array, row_D: Array) -> Array:
    style = equalised(weights, f"{name}.affine", row_D, len(x), bias_offset=1.0) / len(x) ** 0.5
    w = weights(f"{name}.weight", 3, len(x), 1, 1) * style[None, :, None, None]
    return np.clip(correlate(x, w) + weights(f"{name}.bias", 3, scale=0.1)[:, None, None], -256, 256)


def generated(weights: Weights, sizes: Sizes, wplus_LD: Array, transform=None) -> tuple[Array, Array]:  # type: ignore[no-untyped-def]
    """(picture [3, R, R], features between the two convolutions of the place). transform: of those features.

    Rows of W+: the constant's convolution 0; then two for each resolution, of which the second's RGB reads the next row.
    """
    x = weights("generator.synthesis.b4.const", sizes.channels[0][1], 4, 4)
    row, image, kept = 0, None, None
    for side, out in sizes.channels:
        name = f"generator.synthesis.b{side}"
        if side > 4:
            x = modulated(weights, f"{name}.conv0", x, wplus_LD[row], out, side, up=True)
            row += 1
            if side == sizes.place:
                kept = x
                x = x if transform is None else transform(x)
        x = modulated(weights, f"{name}.conv1", x, wplus_LD[row], out, side, up=False)
        row += 1
        rgb = to_rgb(weights, f"{name}.torgb", x, wplus_LD[row])
        image = rgb if image is None else filtered(spread(image, side), 2, 1, 4.0) + rgb
    assert image is not None and kept is not None
    return image, kept


def mapped(weights: Weights, sizes: Sizes, z_D: Array, layers: int = 2) -> Array:
    """z => W: normalised z through linear layers that learn a hundred times slower."""
    x = z_D / np.sqrt((z_D**2).mean() + 1e-8)
    for i in range(layers):
        name = f"generator.mapping.fc{i}"
        w = weights(f"{name}.weight", sizes.width, len(x), scale=100.0)
        x = leaky(0.01 * (w @ x / len(x) ** 0.5 + weights(f"{name}.bias", sizes.width, scale=10.0)), 0.2) * 2**0.5
    return x


# ---------------------------------------------------------------------------------------------------------------- e4e as E0


def ir_se_unit(weights: Weights, name: str, x: Array, out: int, stride: int) -> Array:
    y = normalised(weights, f"{name}.res_layer.0", x)
    y = prelu(weights, f"{name}.res_layer.2", conv(weights, f"{name}.res_layer.1", y, out, 3, bias=False))
    y = conv(weights, f"{name}.res_layer.3", y, out, 3, stride=stride, bias=False)
    y = normalised(weights, f"{name}.res_layer.4", y)
    squeezed = conv(weights, f"{name}.res_layer.5.fc1", y.mean(axis=(1, 2), keepdims=True), out // 16, 1, bias=False)
    y = y * sigmoid(conv(weights, f"{name}.res_layer.5.fc2", np.maximum(squeezed, 0), out, 1, bias=False))
    assert len(x) == out, "the smallest model never changes the number of channels"
    return y + x[:, ::stride, ::stride]


def encoded(weights: Weights, sizes: Sizes, image: Array, rows: int) -> tuple[Array, Array]:
    """image [3, S, S] in [-1, 1] => (differences from the mean code [L, D], features after the first group)."""
    width, name = sizes.encoder, "encoder.input_layer"
    x = conv(weights, f"{name}.0", image, width, 3, bias=False)
    x = prelu(weights, f"{name}.2", normalised(weights, f"{name}.1", x))
    found = []
    for group in range(4):
        x = ir_se_unit(weights, f"encoder.body.{group}", x, width, 2)
        found.append(x)
    middle = enlarged(found[3], found[2].shape[1]) + conv(weights, "encoder.latlayer1", found[2], width, 1)
    fine = enlarged(middle, found[1].shape[1]) + conv(weights, "encoder.latlayer2", found[1], width, 1)
    codes = []
    for row in range(rows):
        x = found[3] if row < 3 else middle if row < 7 else fine
        for step in range(x.shape[1].bit_length() - 1):
            x = leaky(conv(weights, f"encoder.styles.{row}.convs.{2 * step}", x, width, 3, stride=2), 0.01)
        codes.append(equalised(weights, f"encoder.styles.{row}.linear", x[:, 0, 0], sizes.width))
    return np.stack([codes[0], *(codes[0] + one for one in codes[1:])]), found[0]


# ------------------------------------------------------------------------------------------------------------------ E1 and E2


def res_layer(weights: Weights, name: str, x: Array, out: int, stride: int = 1) -> Array:
    short = x
    if len(x) != out or stride != 1:
        short = conv(weights, f"{name}.shortcut_layer.0", x, out, 1, stride=stride, bias=False)
    y = leaky(conv(weights, f"{name}.res_layer.0", x, out, 3), 0.2)
    return short + conv(weights, f"{name}.res_layer.2", y, out, 3, stride=stride)


def chain(weights: Weights, name: str, x: Array, *layers: tuple[int, int]) -> Array:
    for i, (out, stride) in enumerate(layers):
        x = res_layer(weights, f"{name}.{i}", x, out, stride)
    return x


def aligned_residual(weights: Weights, sizes: Sizes, encoder_features: Array, generator_features: Array) -> Array:
    """E1."""
    n = sizes.inner
    x = conv(weights, "alignment.first_layer", np.concatenate([encoder_features, generator_features]), n, 1)
    one = chain(weights, "alignment.conv1", x, (n, 1))
    two = chain(weights, "alignment.conv2", one, (n, 2), (n, 1))
    three = chain(weights, "alignment.conv3", two, (n, 2), (n, 1))
    x = chain(weights, "alignment.dconv1", enlarged(three, two.shape[1]) + two, (n, 1), (n, 1))
    x = chain(weights, "alignment.dconv2", enlarged(x, one.shape[1]) + one, (n, 1), (n, 1))
    x = conv(weights, "alignment.out_layer", x, n, 1)
    x = conv(weights, "extraction.first_layer", x, n, 1)
    return chain(weights, "extraction.convs", x, (n, 1), (n, 1), (sizes.residual, 1))


def fused(weights: Weights, sizes: Sizes, features: Array, residual: Array) -> Array:
    """E2 and Eq. 3: what the residual becomes for these features, where the gate lets it."""
    n = sizes.inner
    left = conv(weights, "gates.down1", features, n // 2, 3)
    both = np.concatenate([left, conv(weights, "gates.down2", residual, n // 2, 3)])
    delta = chain(weights, "gates.convs", both, (n, 1), (n, 1), (len(features), 1))
    gate = sigmoid(chain(weights, "gates.convs2", both, (n, 1), (n, 1), (1, 1)))
    return features + gate * delta


def picture(sizes: Sizes) -> Array:
    """A smooth picture in [-1, 1] with all three channels different."""
    v, u = np.mgrid[0 : sizes.resolution, 0 : sizes.resolution] / sizes.resolution
    return np.stack([0.8 * np.sin(6 * u + c) * np.cos(4 * v - 2 * c) for c in range(3)])


def everything(sizes: Sizes = Sizes()) -> tuple[dict[str, Array], Weights]:
    """Name => what the model must give; and the weights that it must have."""
    weights, rows = Weights(), 8
    offsets, encoder_features = encoded(weights, sizes, picture(sizes), rows)
    wplus = offsets + weights("latent_avg", rows, sizes.width, scale=0.5)
    _, features = generated(weights, sizes, wplus)
    residual = aligned_residual(weights, sizes, encoder_features, features)
    edited = wplus + 0.5 * drawn("edit", (rows, sizes.width), 1.0, 0.0, False)

    def with_residual(code: Array) -> Array:
        return generated(weights, sizes, code, lambda x: fused(weights, sizes, x, residual))[0]

    z = drawn("z", (sizes.width,), 1.0, 0.0, False)
    return {
        "w_of_z": mapped(weights, sizes, z),
        "wplus": wplus,
        "encoder_features": encoder_features,
        "features": features,
        "residual": residual,
        "reconstruction": with_residual(wplus),
        "edited_wplus": edited,
        "edited": with_residual(edited),
        "without_residual": generated(weights, sizes, edited)[0],
    }, weights
