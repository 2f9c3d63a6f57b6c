"""Template matching from tomogram to picks: a coarse scan, then a refinement of its best peaks.

1. The template, low-passed to what a coarse step of rotations resolves, is scanned over the binned
   tomogram at all rotations that step apart. Turned by half a step it still looks like itself, and
   the structure's neighbourhood peaks.
2. Around the highest peaks boxes are cut from the tomogram itself. Fast rotational matching looks
   at all rotations and some shifts of each at once (`phase`), the best poses climb to the top in
   rotation and shift together (`refinement`).
3. Each is scored anew by the definition of the scan, at the tomogram's own resolution: scores are
   those that a scan of infinitely small steps would give.
4. The same is done with a template of the same spectrum that is no structure (`controls`): what it
   reaches tells the score that chance reaches (`picking.template.chance`).

An exhaustive scan replaces 1 and the search over all rotations in 2.

Its modules, each of which uses those before it only: `settings`, `model`, `refinement`, `search`
(1 and 2), `match` (3 and 4, and what comes of it).
"""

from scipion_faml.template_matching.match import TemplateResult, enlarged, match_template
from scipion_faml.template_matching.model import TemplateModel, diameter_of, transfer_filter
from scipion_faml.template_matching.settings import TemplateConfig

__all__ = [
    "TemplateConfig", "TemplateModel", "TemplateResult", "diameter_of", "enlarged",
    "match_template", "transfer_filter",
]
