"""Template matching: where in a tomogram, and how turned, a known structure lies.

The score of a template T, turned by R, at voxel x is the correlation coefficient of T with the
tomogram f under a mask m that moves and turns with T (Roseman 2003, Ultramicroscopy 94:225), both
filtered alike, and T by the missing wedge too (`correlation`):

    c(x, R) = sum_r m(r) (T_R(r) - T') f(x + r) / (P s_T s_f(x)),    P = sum_r m(r).

`rotations`: which R are tried; `filters`: what f and T are filtered by; `scan`: all R at all x,
tile by tile; `chance`: the score that noise alone reaches.
"""
