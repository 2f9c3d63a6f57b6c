# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Coefficients of the rotational correlation on the torus, before its 3-D FFT."""


def assemble(
    const float complex[::1] product not None,  # IN  I^l_{m m'}, l after l, (2l+1, 2l+1) each, m from -l
    const float[::1] wigner not None,           # IN  d^l_{h m}(pi/2), l after l, (2l+1, l+1): m from -l, h from 0
    const long[::1] degree not None,            # IN  the degrees l to sum, ascending
    Py_ssize_t bandwidth,                       # IN  B > every degree
    float complex[:, :, ::1] out not None,      # OUT (2B-1, 2B-1, B) sum_l I^l_{m m'} d^l_{hm} d^l_{hm'}
):
    """T(m, m', h) for m, m' from -(B-1) and h from 0 to B-1. Oracle: tests/oracles.py::assemble."""
    cdef Py_ssize_t i, l, m, mp, h, width, n_degree = degree.shape[0], centre = bandwidth - 1
    cdef Py_ssize_t size_product = 0, size_wigner = 0
    cdef const float complex* block
    cdef const float* table
    cdef const float* first
    cdef const float* second
    cdef float complex* row
    cdef float re, im, weight
    for i in range(n_degree):
        l = degree[i]
        if l < 0 or l >= bandwidth:
            raise ValueError(f"degree {l} does not lie in 0..{bandwidth - 1}")
        size_product += (2 * l + 1) * (2 * l + 1)
        size_wigner += (2 * l + 1) * (l + 1)
    if product.shape[0] != size_product or wigner.shape[0] != size_wigner:
        raise ValueError(f"{product.shape[0]} products and {wigner.shape[0]} Wigner values; "
                         f"the degrees need {size_product} and {size_wigner}")
    if (out.shape[0], out.shape[1], out.shape[2]) != (2 * bandwidth - 1, 2 * bandwidth - 1, bandwidth):
        raise ValueError(f"out has shape ({out.shape[0]}, {out.shape[1]}, {out.shape[2]})")
    if n_degree == 0:
        out[:, :, :] = 0
        return
    with nogil:
        out[:, :, :] = 0
        block = &product[0]
        table = &wigner[0]
        for i in range(n_degree):
            l = degree[i]
            width = 2 * l + 1
            for m in range(width):
                first = table + m * (l + 1)
                for mp in range(width):
                    second = table + mp * (l + 1)
                    re = block[m * width + mp].real
                    im = block[m * width + mp].imag
                    row = &out[centre - l + m, centre - l + mp, 0]
                    for h in range(l + 1):
                        weight = first[h] * second[h]
                        row[h].real = row[h].real + weight * re
                        row[h].imag = row[h].imag + weight * im
            block += width * width
            table += width * (l + 1)
