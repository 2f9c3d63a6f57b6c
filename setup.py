"""Build of scipion-em-faml: three top-level folders are mapped into the scipion_faml namespace.

docs/decisions/0001-literal-layout.md tells why, and which traps the explicit lists below avoid.
"""

from setuptools import Extension, setup

KERNELS = [
    "_interpolate", "_so3", "_peaks", "_residual", "_scoring", "_voronoi", "_local",
    "_posterior",
]
# Written in C with a copy for AVX2 and fused multiply-adds, chosen at run time.
FUSED = {"_scoring", "_voronoi", "_posterior"}
STRICT = ["-ffp-contract=off"]
LOOSE = ["-ffp-contract=fast", "-fno-trapping-math", "-fno-math-errno"]  # loops that vectorise

setup(
    package_dir={
        "scipion_faml": "scipion_faml",
        "scipion_faml.protocols": "protocols",
        "scipion_faml.viewers": "viewers",
        "scipion_faml.cython_ext": "cython_ext",
    },
    packages=[
        "scipion_faml",
        "scipion_faml.cli",
        "scipion_faml.cluster",
        "scipion_faml.convert",
        "scipion_faml.datasets",
        "scipion_faml.detector",
        "scipion_faml.enhanced",
        "scipion_faml.evaluation",
        "scipion_faml.exchange",
        "scipion_faml.grouping",
        "scipion_faml.picking",
        "scipion_faml.picking.template",
        "scipion_faml.plots",
        "scipion_faml.simulation",
        "scipion_faml.template_matching",
        "scipion_faml.wizards",
        "scipion_faml.protocols",
        "scipion_faml.viewers",
        "scipion_faml.cython_ext",
    ],
    # Bare Extensions: cythonize() would drop the .pyx files from the sdist.
    ext_modules=[
        Extension(
            f"scipion_faml.cython_ext.{name}",
            [f"cython_ext/{name}.pyx"],
            depends=[f"cython_ext/{name}.h", "cython_ext/_simd.h"] if name in FUSED else [],
            extra_compile_args=["-O3", *(LOOSE if name in FUSED else STRICT)],
        )
        for name in KERNELS
    ],
)
