"""Tilt ranges: of acquisitions, or of what they belong to."""

from __future__ import annotations

from tomo.objects import SetOfSubTomograms, SetOfTomograms, SubTomogram, TomoAcquisition

from scipion_faml.wedge import MissingWedge


def missing_wedge(acquisition: TomoAcquisition | None) -> MissingWedge | None:
    """Return the tilt range of an acquisition, or None where it has none or 0 to 0 deg."""
    if acquisition is None or not hasattr(acquisition, "getAngleMin"):
        return None
    low, high = acquisition.getAngleMin(), acquisition.getAngleMax()
    if low is None or high is None or low == high == 0.0:
        return None
    return MissingWedge(float(low), float(high))


def wedge_of_item(item: SubTomogram, whole: SetOfSubTomograms) -> MissingWedge | None:
    """Tilt range of one subtomogram: its own, else its set's, else its tomogram's."""
    for acquisition in (item.getAcquisition(), whole.getAcquisition()):
        wedge = missing_wedge(acquisition)
        if wedge is not None:
            return wedge
    if whole.hasCoordinates3D() and item.hasCoordinate3D():
        tomogram = whole.getTomogram(item)
        if tomogram is not None:
            return missing_wedge(tomogram.getAcquisition())
    return None


def tilt_range_of(images: SetOfSubTomograms | SetOfTomograms) -> MissingWedge | None:
    """Return the tilt range of a set's first item (or of the set), for forms and messages."""
    first = images.getFirstItem()
    if isinstance(images, SetOfTomograms):
        own = missing_wedge(first.getAcquisition()) if first is not None else None
        return own or missing_wedge(images.getAcquisition())
    return None if first is None else wedge_of_item(first, images)
