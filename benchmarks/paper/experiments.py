"""The experiments of the FAML paper (sections 3.2 and 3.3) and some more: what is simulated.

An experiment holds settings; a setting and a seed give one set of particles, simulated as in
section 3.1 of the paper by `scipion-faml simulate-subtomograms`. Structures are the bead models
that come with the package, so that nothing else is needed; the helix alone needs PDB 3KML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Setting:
    """One simulated set of particles, and the number of classes asked for."""

    models: tuple[str, ...]
    counts: tuple[int, ...]
    snr: float
    box: int = 64
    voxel_size: float = 6.0
    tilts: tuple[float, float] = (-60.0, 60.0)
    preferred_axis: str | None = None
    max_shift: float = 3.0
    classes: int | None = None  # None: the number of models; 0: to be found
    options: tuple[str, ...] = ()  # of classify --mode enhanced
    label: str = ""  # of a point on a curve

    @property
    def n_classes(self) -> int:
        """Classes asked for; 0: the method finds out."""
        return len(self.models) if self.classes is None else self.classes

    @property
    def name(self) -> str:
        """For file names: what makes this set this set."""
        counted = "-".join(f"{m.rpartition(':')[0] or m}{c}"
                           for m, c in zip(self.models, self.counts, strict=True))
        axis = self.preferred_axis or "any"
        low, high = self.tilts
        return (f"{counted}_box{self.box}_{self.voxel_size:g}A_snr{self.snr:g}_{low:g}to{high:g}"
                f"_{axis}")


@dataclass(frozen=True)
class Experiment:
    """Settings, what the paper reports of them, and what is wanted."""

    name: str
    title: str
    settings: tuple[Setting, ...]
    paper: str
    reach: str
    fold: Mapping[str, int] = field(default_factory=dict)  # model -> fold of its symmetry shown
    n_seeds: int = 5
    methods: tuple[str, ...] = ("fa", "paper", "enhanced")


# Point groups of the models: poses that differ by them are the same pose.
GROUPS = {"groel": "D7", "groel-groes": "C7", "proteasome": "D7", "apoferritin": "O", "tmv": "C17"}
GROEL = Setting(("groel",), (100,), 0.003)
PAIR = Setting(("groel", "ribosome"), (100, 100), 0.01)
ALIKE = Setting(
    ("groel", "groel-groes"), (100, 100), 0.05, box=32, voxel_size=12.0, tilts=(-65.0, 65.0))
RIBOSOMES = Setting(("ribosome",), (100,), 0.01)
FOUR = Setting(("groel", "proteasome", "tric", "apoferritin"), (50,) * 4, 0.01)
ABLATION = (
    "enhanced", "enhanced-flip", "enhanced-no-prior", "enhanced-white-noise", "enhanced-one-fold",
    "enhanced-no-spread", "enhanced-all-shells", "enhanced-no-split-merge",
    "enhanced-symmetry")
COUNTS = (10, 20, 50, 100, 200)
SNRS = (0.1, 0.03, 0.01, 0.003, 0.001)

EXPERIMENTS = {
    e.name: e for e in (
        Experiment(
            "low-snr", "Fig. 3: low SNR", (GROEL,), "CC 0.77 (FA 0.19)", "CC >= 0.85",
            {"groel": 7},
            methods=("fa", "paper", "enhanced-flip", "enhanced", "enhanced-symmetry"),
        ),
        Experiment(
            "small-range", "Fig. 4: small tilt range, preferred orientation",
            (Setting(("groel",), (50,), 0.01, tilts=(-40.0, 40.0), preferred_axis="y"),),
            "CC 0.78 (FA 0.49)", "CC >= 0.85", {"groel": 7},
            methods=("fa", "paper", "enhanced", "enhanced-symmetry"),
        ),
        Experiment(
            "two-classes", "Fig. 7: two classes", (PAIR, replace(PAIR, snr=0.003)),
            "F1 1.00, CC 0.88, 0.85 (FA 0.99, 0.84, 0.75), SNR 0.01",
            "F1 1.00, CC >= 0.92, 0.90; F1 1.00 at SNR 0.003",
        ),
        Experiment(
            "few-unequal", "Sec. 3.3.2: few and unequal",
            (Setting(("tric", "proteasome"), (125, 200), 0.01, box=40, voxel_size=13.68,
                     tilts=(-50.0, 70.0)),),
            "F1 0.863, CC 0.41, 0.45 (FA 0.462, 0.08, 0.16), real particles",
            "F1 >= 0.95, CC >= 0.8, 0.8",
        ),
        Experiment(
            "look-alikes", "Sec. 3.3.3: look-alikes, half as many",
            (ALIKE, replace(ALIKE, snr=0.01)),
            "CC 0.87, 0.78 (FA 0.40, 0.24) of 200 + 200 real particles",
            "CC >= 0.90, 0.85 of 100 + 100, F1 >= 0.95", {"groel": 7, "groel-groes": 7},
        ),
        Experiment(
            "helix", "Sec. 3.2.3: helix",
            (Setting(("tmv",), (100,), 0.0023, voxel_size=5.4),),
            "17-fold self-correlation 0.47 (FA 0.25), 2742 real particles", ">= 0.6",
            {"tmv": 17},
        ),
        Experiment(
            "how-few", "How few particles", tuple(
                replace(GROEL, counts=(n,), snr=0.01, label=f"N = {n}") for n in COUNTS),
            "", "a curve", {"groel": 7},
        ),
        Experiment(
            "how-noisy", "How much noise", tuple(
                replace(RIBOSOMES, snr=s, label=f"SNR {s:g}") for s in SNRS),
            "", "the SNR where each method breaks",
        ),
        Experiment(
            "four-classes", "Four classes, K given", (FOUR,), "", "F1 >= 0.95",
            methods=("paper", "enhanced"),
        ),
        Experiment(
            "how-many", "Four classes, K unknown", (replace(FOUR, classes=0),), "",
            "K right in 90 % of 20 seeds", n_seeds=20, methods=("enhanced",),
        ),
        Experiment(
            "ablation", "Enhanced mode, a part left out at a time or added",
            (GROEL, ALIKE), "", "what each is worth", {"groel": 7, "groel-groes": 7}, n_seeds=1,
            methods=ABLATION,
        ),
    )
}


def smaller(experiment: Experiment, box: int = 24, per_class: int = 12) -> Experiment:
    """Return a version that takes seconds: for the tests."""
    def small(setting: Setting) -> Setting:
        factor = setting.box / box
        return replace(
            setting, box=box, voxel_size=setting.voxel_size * factor, snr=max(setting.snr, 0.3),
            counts=tuple(min(c, per_class) for c in setting.counts), max_shift=1.0)
    return replace(experiment, settings=tuple(small(s) for s in experiment.settings), n_seeds=1)
