"""Plain NumPy simulation of arrays of cells, written from the definitions of the mappings."""

import numpy as np

from keras_rram.faults import BitSlices, CentredPair, DifferentialPair, ReferenceColumn

MAPPINGS = {
    "pair": DifferentialPair(),
    "pair_channel": DifferentialPair(g_min=2e-6, g_max=5e-5, scaling="channel"),
    "pair_infinite_ratio": DifferentialPair(g_min=0.0),
    "centred": CentredPair(),
    "centred_channel": CentredPair(scaling="channel"),
    "reference": ReferenceColumn(),
    "reference_channel": ReferenceColumn(scaling="channel"),
    **{
        f"{encoding}_{bits}": BitSlices(bits, encoding, scaling=scaling)
        for bits in (1, 2, 3, 4)
        for encoding, scaling in (("differential", "tensor"), ("offset_binary", "channel"))
    },
}


def programmed(mapping, kernel):
    """Conductances of a dense kernel (inputs, outputs), weight by weight."""
    low, high = mapping.g_min, mapping.g_max
    inputs, outputs = kernel.shape
    rows = []
    for i in range(inputs):
        row = []
        for j in range(outputs):
            column = kernel[:, j] if mapping.scaling == "channel" else kernel
            largest = float(np.abs(column).max())
            w = float(kernel[i, j])
            if isinstance(mapping, DifferentialPair):
                part = abs(w) / largest
                cells = [low + part * (high - low), low]
                cells = cells if w >= 0 else cells[::-1]
            elif isinstance(mapping, CentredPair | ReferenceColumn):
                shift = w / largest * (high - low) / 2
                cells = [(low + high) / 2 + shift, (low + high) / 2 - shift]
                cells = cells if isinstance(mapping, CentredPair) else cells[:1]
            else:
                number = round(127 * w / largest)
                base = 2**mapping.bits
                if mapping.encoding == "differential":
                    count = {1: 7, 2: 4, 3: 3, 4: 2}[mapping.bits]
                    digits = digits_of(max(number, 0), base, count)
                    digits += digits_of(max(-number, 0), base, count)
                else:
                    count = {1: 8, 2: 4, 3: 3, 4: 2}[mapping.bits]
                    digits = digits_of(number + 128, base, count)
                cells = [low + digit / (base - 1) * (high - low) for digit in digits]
            row.append(cells)
        rows.append(row)
    return np.array(rows).transpose(2, 0, 1)


def digits_of(number, base, count):
    return [number // base**k % base for k in range(count)]


def layer(mapping, kernel, conductances, inputs):
    """Outputs of a dense layer from the currents of its columns, in double precision."""
    low, span = mapping.g_min, mapping.g_max - mapping.g_min
    largest = np.abs(kernel).astype(float)
    largest = largest.max(0) if mapping.scaling == "channel" else largest.max()
    currents = [inputs.astype(float) @ cells for cells in conductances]
    if isinstance(mapping, DifferentialPair | CentredPair):
        return (currents[0] - currents[1]) * largest / span
    total = inputs.astype(float).sum(1, keepdims=True)
    if isinstance(mapping, ReferenceColumn):
        reference = total * (low + mapping.g_max) / 2
        return (currents[0] - reference) * largest / (span / 2)
    base = 2**mapping.bits
    # What g_min adds is the same in each column, and is subtracted.
    digits = [(current - total * low) / span * (base - 1) for current in currents]
    if mapping.encoding == "differential":
        half = len(digits) // 2
        number = sum(base**k * (digits[k] - digits[half + k]) for k in range(half))
    else:
        number = sum(base**k * digit for k, digit in enumerate(digits)) - 128 * total
    return number * largest / 127


def kernel(shape=(20, 9), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
