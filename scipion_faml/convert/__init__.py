"""Scipion objects <-> particle tables, poses and files: the only place that knows both conventions.

Protocols, viewers and wizards call `convert.x`. A change in Scipion's objects is followed in one of
`tilts`, `volumes`, `poses`, `particles` (sets of subtomograms), `coordinates`, `new` (objects);
`columns` knows tables only.
"""

from scipion_faml.convert.columns import (
    ID_COLUMN,
    are_same_picks,
    class_numbers,
    columns_of,
    has_pose_columns,
    ready_to_average,
    same_images,
    with_model_names,
)
from scipion_faml.convert.coordinates import (
    all_picks_table,
    append_coordinates,
    by_tomogram,
    counts_by_tomogram,
    ids_in_tomogram,
    picks_table,
    position_xyz,
    table_of,
)
from scipion_faml.convert.new import (
    clones,
    copy_of,
    new_acquisition,
    new_average,
    new_fsc,
    new_subtomogram,
    new_tomogram,
    read_fscs,
)
from scipion_faml.convert.particles import (
    LOG_LIKELIHOOD,
    PROBABILITY,
    ItemUpdater,
    box_centre,
    particle_table,
    set_box_centre,
    write_particle_table,
)
from scipion_faml.convert.poses import IDENTITY, matrix_of, rescaled, transforms
from scipion_faml.convert.tilts import missing_wedge, tilt_range_of
from scipion_faml.convert.volumes import half_maps, map_file, mrc_file, structure_of_file

__all__ = [
    "IDENTITY", "ID_COLUMN", "LOG_LIKELIHOOD", "PROBABILITY", "ItemUpdater", "all_picks_table",
    "append_coordinates", "are_same_picks", "box_centre", "by_tomogram", "class_numbers", "clones",
    "columns_of", "copy_of", "counts_by_tomogram", "half_maps", "has_pose_columns",
    "ids_in_tomogram", "map_file", "matrix_of", "missing_wedge", "mrc_file", "new_acquisition",
    "new_average", "new_fsc", "new_subtomogram", "new_tomogram", "particle_table", "picks_table",
    "position_xyz", "read_fscs", "ready_to_average", "rescaled", "same_images", "set_box_centre",
    "structure_of_file", "table_of", "tilt_range_of", "transforms", "with_model_names",
    "write_particle_table",
]
