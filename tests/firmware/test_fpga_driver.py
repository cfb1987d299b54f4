"""The driver of the FPGA core: whatever way a product is cut into jobs, their results are the convolution."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hwnas.firmware.fpga.driver import Driver
from hwnas.firmware.fpga.product import Geometry, Packing, Product, Window, pieces
from hwnas.firmware.fpga.reference import compute
from hwnas.toolchains.cgen.kernels.reference import rescaled

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    groups = draw(st.integers(1, 7))
    inputs, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    window = Window(
        draw(pairs),
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        draw(st.tuples(*[st.integers(0, 2)] * 4)),
    )
    size = (draw(st.integers(1, 2)), draw(st.integers(1, 11)), draw(st.integers(1, 11)))
    geometry = Geometry((*size, groups * inputs), window, groups * outputs, groups)
    assume(min(geometry.result) >= 1)
    return geometry


@st.composite
def packings(draw: st.DrawFn, geometry: Geometry) -> Packing:
    side = draw(st.integers(0, geometry.groups)) if geometry.groups > 1 else 0
    return Packing(draw(st.integers(1, 4)), draw(st.integers(1, 5)), side, draw(st.integers(1, 4)))


def product_of(geometry: Geometry, packing: Packing, rng: np.random.Generator) -> Product:
    """A product with random integers on random grids."""
    kind = "shift" if rng.random() < 0.5 else "multiply"
    count = geometry.outputs if rng.random() < 0.7 else 1
    signed_in, signed_out = rng.random(2) < 0.5
    zero, result_zero = (int(rng.integers(-128, 128)) + (0 if signed else 128) for signed in (signed_in, signed_out))
    low, high = sorted(int(v) + (0 if signed_out else 128) for v in rng.integers(-128, 128, 2))
    return Product(
        geometry=geometry,
        packing=packing,
        weights=rng.integers(-128, 128, geometry.weights).astype(np.int8),
        bias=rng.integers(-5000, 5000, geometry.outputs).astype(np.int32),
        kind=kind,
        entries=rng.integers(1, 14 if kind == "shift" else 2**29, count).astype(np.int32),
        lift=int(rng.integers(0, 3)),
        dtype="int8" if signed_in else "uint8",
        zero=zero,
        result_dtype="int8" if signed_out else "uint8",
        result_zero=result_zero,
        low=low,
        high=high,
    )


def convolved(product: Product, image: np.ndarray) -> np.ndarray:
    """The convolution by its definition, in integers that cannot overflow."""
    geometry, window = product.geometry, product.geometry.window
    top, left, bottom, right = window.pads
    centred = np.pad(image.astype(np.int64) - product.zero, ((0, 0), (top, bottom), (left, right), (0, 0)))
    _, rows, columns, _ = geometry.result
    sums = np.zeros(geometry.result, np.int64) + product.bias
    ci, co = geometry.group_inputs, geometry.group_outputs
    for g, y, x in np.ndindex(geometry.groups, *window.kernel):
        moved = centred[:, y * window.dilations[0] :, x * window.dilations[1] :]
        taken = moved[:, :: window.strides[0], :: window.strides[1]][:, :rows, :columns, g * ci : (g + 1) * ci]
        sums[..., g * co : (g + 1) * co] += taken @ product.weights[g, y, x].astype(np.int64)
    entries = product.entries if product.entries.size > 1 else int(product.entries[0])
    return rescaled(sums, product.kind, entries, product.lift, product.result_zero, product.low, product.high)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), geometry=geometries(), seed=st.integers(0, 2**32 - 1))
def test_jobs_are_the_convolution_however_it_is_cut(data: st.DataObject, geometry: Geometry, seed: int) -> None:
    packing, rng = data.draw(packings(geometry)), np.random.default_rng(seed)
    product = product_of(geometry, packing, rng)
    limits = np.iinfo(product.dtype)
    image = rng.integers(limits.min, limits.max + 1, geometry.image).astype(product.dtype)
    driver = Driver(product)
    jobs = driver.jobs(image)
    assert [job.shape for job in jobs] == [piece.shape(geometry) for piece in pieces(geometry, packing)]
    result = driver.collect([compute(job) for job in jobs])
    assert result.dtype == np.dtype(product.result_dtype)
    np.testing.assert_array_equal(result, convolved(product, image))


@given(geometry=geometries(), lines=st.integers(1, 4), pixels=st.integers(1, 5))
def test_every_output_is_computed_once(geometry: Geometry, lines: int, pixels: int) -> None:
    """Multiply-accumulates of jobs are never fewer than the product's own, and alone they are the same."""
    jobs = [piece.shape(geometry) for piece in pieces(geometry, Packing(lines, pixels, 0, geometry.group_outputs))]
    assert len(jobs) == geometry.groups
    assert sum(shape.macs for shape in jobs) >= geometry.macs
    plain = [piece.shape(geometry) for piece in pieces(geometry, Packing(1, 1, 0, 1))]
    assert sum(shape.macs for shape in plain) == geometry.macs
    assert geometry.macs == prod(geometry.result) * prod(geometry.weights[1:4])
