"""Particles with poses to and from other packages' files."""

from __future__ import annotations

import enum
import json
import os
from dataclasses import replace
from pathlib import Path

from pyworkflow.exceptions import PyworkflowException
from pyworkflow.object import Pointer
from pyworkflow.protocol import params
from pyworkflow.utils import Message
from tomo.objects import SetOfCoordinates3D, SetOfSubTomograms

from scipion_faml import convert
from scipion_faml.exchange.formats import DEFAULT_VOLUMES, FORMATS, MAY_BE, guess_format
from scipion_faml.exchange.table import counted_in, rows_of_tomogram
from scipion_faml.geometry import scipion_matrices
from scipion_faml.io import read_header
from scipion_faml.tables import COORDINATES, read_particles, write_particles
from scipion_faml.wedge import NO_WEDGE

from .protocol_base import ProtFamlBase, add_tilt_range

TITLES = {
    "relion3": "RELION 3.1 (STAR)", "relion4": "RELION 4 (STAR)", "relion5": "RELION 5 (STAR)",
    "dynamo": "Dynamo (table, data folder)", "eman": "EMAN2 (JSON, lst)",
    "motl": "TOM / AV3 motive list (EM)", "peet": "PEET (csv, points)",
}
VOLUMES = [None, "link", "copy", "convert", "none"]
GUESS = 0  # value of the import's `fileFormat`; then FORMATS


class FamlImportOutputs(enum.Enum):
    """Names of the outputs; saved projects and workflows rely on them."""

    subtomograms = SetOfSubTomograms
    coordinates = SetOfCoordinates3D


class _ProtFamlExchange(ProtFamlBase):
    """What export and import share: tomograms as files that bear their tilt series id."""

    def tomogramLinks(self, tomograms, folder):
        """Return links to the tomograms' files, named by tilt series id."""
        links = []
        for tomogram in convert.clones(tomograms):
            name = tomogram.getTsId()
            source = Path(convert.mrc_file(tomogram, folder / f"{name}_converted.mrc"))
            link = folder / "tomograms" / f"{name}{source.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(source, link.parent.resolve()))
            links.append(link)
        return links

    def result(self):
        """Return what the command wrote about its run, or nothing before it ended."""
        path = Path(self._getExtraPath("results", "run.json"))
        return json.loads(path.read_text())["result"] if path.is_file() else {}

    def _citations(self):
        return []


class ProtFamlExportParticles(_ProtFamlExchange):
    """Writes particles or positions with their orientations as files of another package.

    RELION 3.1, 4 and 5, Dynamo, EMAN2, PEET and the EM motive lists of TOM, AV3, subTOM, Artiatomi
    and cryoCAT. The files lie in the run's folder extra/results. What a format cannot hold is named
    in the summary; it comes back with the import protocol.
    """

    _label = "export particles"

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam(
            "inputParticles", params.PointerParam, important=True, label="Particles",
            pointerClass="SetOfSubTomograms, SetOfClassesSubTomograms, SetOfCoordinates3D",
            help="Aligned subtomograms, classes of them, or positions in tomograms.")
        form.addParam("fileFormat", params.EnumParam, default=0, label="Format",
                      choices=[TITLES[name] for name in FORMATS],
                      help="The conventions of each are in docs/CONVENTIONS.md.")
        form.addParam(
            "volumes", params.EnumParam, default=0, label="Volumes",
            choices=["as the format asks", "link", "copy", "convert to EM", "leave out"],
            help="RELION and EMAN2 get links to the MRC files, Dynamo and motive lists EM files "
                 "(voxels of the same numbers), PEET none.")
        form.addParam(
            "tomogramSet", params.FileParam, allowsNull=True, label="RELION's tomograms.star",
            condition="fileFormat in (1, 2)",
            help="Optional. It is named in optimisation_set.star, and its sizes of tomograms are "
                 "used for RELION 5's centred positions.")
        form.addParam(
            "pixelSize", params.FloatParam, allowsNull=True, condition="fileFormat in (1, 2)",
            label="Unbinned pixel size (Å)",
            help="Of the tilt series: positions are written in its pixels. Empty: positions count "
                 "the tomogram's voxels.")
        form.addParam(
            "subtomogramFrames", params.BooleanParam, default=False,
            condition="fileFormat in (1, 2)", expertLevel=params.LEVEL_ADVANCED,
            label="Orientations as subtomogram frames?",
            help="Writes rlnTomoSubtomogramRot, Tilt, Psi: RELION then cuts particles that are "
                 "turned already. Only without volumes.")

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint()
        self._insertFunctionStep(self.convertInputStep, settings, needsGPU=False)
        self._insertFunctionStep(self.exportStep, settings, needsGPU=False)

    def convertInputStep(self, settings):
        """Write the particles as STAR table."""
        folder = self.resultsFolder(settings, "input")
        particles = self.inputParticles.get()
        if isinstance(particles, SetOfCoordinates3D):
            write_particles(folder / "particles.star", convert.all_picks_table(particles))
        else:
            known = convert.tilt_range_of(self._images())
            convert.write_particle_table(
                particles, folder / "particles.star", None if known else NO_WEDGE)

    def exportStep(self, settings):
        """Write the package's files."""
        folder = self.resultsFolder(settings)
        tomograms = self.tomogramSet.get()
        links = [tomograms] if tomograms else []
        if not links and self._tomograms() is not None:
            links = self.tomogramLinks(self._tomograms(), Path(self._getExtraPath("input")))
        in_relion = self.formatName() in ("relion4", "relion5")
        self.runVerb(
            "export-particles", Path(self._getExtraPath("input", "particles.star")),
            format=self.formatName(), volumes=self.volumesMode(), output=folder, overwrite=True,
            tomograms=links, pixel_size=self.pixelSize.get() if in_relion else None,
            subtomogram_frames=in_relion and self.subtomogramFrames.get())
        return [str(folder / "run.json")]

    def _images(self):
        particles = self.inputParticles.get()
        return particles.getImages() if hasattr(particles, "getImages") else particles

    def _tomograms(self):
        """The tomograms of the particles, where they are known."""
        particles = self.inputParticles.get()
        if isinstance(particles, SetOfCoordinates3D):
            return particles.getPrecedents()
        images = self._images()
        coordinates = images.getCoordinates3D() if images.hasCoordinates3D() else None
        return coordinates.getPrecedents() if coordinates is not None else None

    def formatName(self):
        """Return the chosen format's name on the command line."""
        return FORMATS[self.fileFormat.get()]

    def volumesMode(self):
        """Return what is done about volumes; positions have none."""
        if isinstance(self.inputParticles.get(), SetOfCoordinates3D):
            return "none"
        return VOLUMES[self.volumes.get()] or DEFAULT_VOLUMES[self.formatName()]

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        particles = self.inputParticles.get()
        if particles is None:
            return errors
        if particles.getSize() < 1:
            errors.append("The set of particles is empty.")
        name = self.formatName()
        if self.volumesMode() not in MAY_BE[name]:
            errors.append(f"{TITLES[name]} cannot have these volumes: choose of "
                          f"{', '.join(sorted(MAY_BE[name]))}.")
        if name == "eman" and isinstance(particles, SetOfCoordinates3D):
            errors.append("EMAN2's files list volumes: extract the particles first.")
        if name == "relion5" and not self.tomogramSet.get() and self._tomograms() is None:
            errors.append("RELION 5 counts positions from the tomograms' centres: the particles "
                          "know no tomograms, give RELION's tomograms.star.")
        if self.tomogramSet.get() and not os.path.isfile(self.tomogramSet.get()):
            errors.append(f"{self.tomogramSet.get()} does not exist.")
        if name in ("relion4", "relion5") and self.subtomogramFrames.get() and (
                self.volumesMode() != "none"):
            errors.append("Orientations as subtomogram frames need Volumes: leave out.")
        return errors

    def _summary(self):
        result = self.result()
        if not result:
            return self.notReady()
        lines = [f"*{result['n_particles']}* particles for {TITLES[result['format']]}:"]
        lines += [str(path) for path in list(result["files"].values())[:6]]
        return lines + [f"{text[0].upper()}{text[1:]}." for text in result["warnings"]]


class ProtFamlImportParticles(_ProtFamlExchange):
    """Reads particles with orientations from files of another package.

    Subtomograms come where the file names volumes (EM and HDF are converted to MRC), positions
    where it has some and tomograms are given.
    """

    _label = "import particles"
    _possibleOutputs = FamlImportOutputs

    # ---------------------------------------------------------------------------------- form
    def _defineParams(self, form):
        form.addSection(label=Message.LABEL_INPUT)
        form.addParam(
            "filePath", params.FileParam, important=True, label="File",
            help="STAR (RELION particles or optimisation set), tbl (Dynamo), json or lst (EMAN2), "
                 "em (motive list), csv (PEET motive list).")
        form.addParam("fileFormat", params.EnumParam, default=GUESS, label="Format",
                      choices=["from the file", *(TITLES[name] for name in FORMATS)],
                      help="The conventions of each are in docs/CONVENTIONS.md.")
        form.addParam(
            "exportRun", params.PointerParam, allowsNull=True, label="Exported by",
            pointerClass="ProtFamlExportParticles",
            help="The run that exported these particles, where they come back: volumes, tilt "
                 "ranges and positions are those of its particles, orientations, classes and "
                 "scores those of the file. The rest of the form is then not needed.")
        form.addParam("voxelSize", params.FloatParam, allowsNull=True, label="Voxel size (Å)",
                      help="Of the subtomograms. Empty: what the file or the volumes say; a motive "
                           "list says nothing.")
        form.addParam("inputTomograms", params.PointerParam, allowsNull=True, label="Tomograms",
                      pointerClass="SetOfTomograms",
                      help="Optional. The particles get positions in them. Their tilt series ids "
                           "are the tomograms' names in the file; numbers are in this order.")
        form.addParam("tomogramList", params.FileParam, allowsNull=True,
                      label="List of tomograms", expertLevel=params.LEVEL_ADVANCED,
                      help="RELION's tomograms.star or a Dynamo .doc or .vll: names, numbers and "
                           "sizes, in place of the set above.")
        form.addParam("useVolumes", params.BooleanParam, default=True, label="Use volumes?",
                      help="No: positions and orientations only, as for RELION 5's 2-D stacks.")
        form.addParam("volumesFolder", params.FolderParam, allowsNull=True,
                      label="Folder of volumes", condition="useVolumes",
                      help="Of a Dynamo table or motive list. Empty: beside the file.")
        form.addParam("pointsFile", params.FileParam, allowsNull=True, label="Model points",
                      condition="fileFormat in (0, 7)",
                      help="PEET: the model as text, made by model2point.")
        add_tilt_range(form)
        form.addParam("boxSize", params.IntParam, allowsNull=True, label="Box size (voxels)",
                      help="Of the positions, for extraction. Empty: that of the volumes, or 32.")

    # --------------------------------------------------------------------------------- steps
    def _insertAllSteps(self):
        settings = self.settingsFingerprint()
        self._insertFunctionStep(self.importStep, settings, needsGPU=False)
        self._insertFunctionStep(self.createOutputStep, settings, needsGPU=False)

    def importStep(self, settings):
        """Read the file into a STAR table, volumes as MRC."""
        folder = self.resultsFolder(settings)
        exported = self._exportedTable()
        wedge = self.tiltRangeGiven()
        name = self.formatName()
        self.runVerb(
            "import-particles", os.path.abspath(self.filePath.get()), format=name, output=folder,
            overwrite=True, voxel_size=self.voxelSize.get(), exported=exported,
            tomograms=self._tomogramFiles(), volumes="use" if self.useVolumes.get() else "none",
            volumes_folder=self.volumesFolder.get() or None if name in ("dynamo", "motl") else None,
            positions=self.pointsFile.get() or None if name == "peet" else None,
            tilt_min=None if wedge is None else wedge.tilt_min_deg,
            tilt_max=None if wedge is None else wedge.tilt_max_deg)
        return [str(folder / "particles.star")]

    def _exportedTable(self):
        run = self.exportRun.get()
        return None if run is None else Path(run._getExtraPath("input", "particles.star"))

    def _tomogramFiles(self):
        if self.tomogramList.get():
            return [self.tomogramList.get()]
        if self.inputTomograms.get() is None:
            return []
        return self.tomogramLinks(self.inputTomograms.get(), Path(self._getExtraPath("input")))

    def formatName(self):
        """Return the format's name on the command line."""
        if self.fileFormat.get() == GUESS:
            return guess_format(Path(self.filePath.get()))
        return FORMATS[self.fileFormat.get() - 1]

    def createOutputStep(self, settings):
        """Register subtomograms and positions."""
        table = read_particles(Path(self._getExtraPath("results", "particles.star")))
        if self.exportRun.get() is not None:
            self._updatedInput(table)
            return
        rows_in = self._coordinates(table)
        if "rlnImageName" in table.rows:
            self._subtomograms(table, rows_in)
        if not (hasattr(self, "coordinates") or hasattr(self, "subtomograms")):
            raise PyworkflowException(
                "nothing to show: the file has neither volumes nor positions in the tomograms "
                "given; choose tomograms whose tilt series ids are the names in the file")

    def _updatedInput(self, table):
        """The exported set, with what came back."""
        pointer = self.exportRun.get().inputParticles
        given = pointer.get()
        if isinstance(given, SetOfCoordinates3D):
            self._updatedCoordinates(given, table)
            return
        images = given.getImages() if hasattr(given, "getImages") else given
        updater = convert.ItemUpdater(table)
        made = SetOfSubTomograms.create(self.getPath(), prefix="subtomograms")
        made.copyInfo(images)
        made.copyItems(images, updateItemCallback=updater)
        made.setAlignment3D()
        self._defineOutputs(subtomograms=made)
        self._defineSourceRelation(pointer, made)

    def _updatedCoordinates(self, given, table):
        """The exported positions, with the orientations that came back."""
        tomograms = given.getPrecedents()
        made = self._newCoordinates(tomograms, given.getPrecedents(asPointer=True),
                                    given.getBoxSize())
        self._appendCoordinates(made, tomograms, table)
        self._defineOutputs(coordinates=made)
        self._defineSourceRelation(self.exportRun.get().inputParticles, made)

    def _newCoordinates(self, tomograms, pointer, box):
        made = SetOfCoordinates3D.create(self.getPath(), prefix="coordinates")
        made.setPrecedents(convert.copy_of(pointer))
        made.setSamplingRate(tomograms.getSamplingRate())
        made.setBoxSize(box)
        return made

    def _coordinates(self, table):
        """Output positions in the tomograms given; return each row's coordinate."""
        tomograms = self.inputTomograms.get()
        if tomograms is None or not set(COORDINATES) <= set(table.rows.columns):
            return {}
        made = self._newCoordinates(tomograms, self.inputTomograms, self._box(table))
        id_of_row = self._appendCoordinates(made, tomograms, table)
        if not id_of_row:
            return {}
        self._defineOutputs(coordinates=made)
        self._defineSourceRelation(self.inputTomograms, made)
        return id_of_row

    def _appendCoordinates(self, made, tomograms, table):
        """Append the positions of each tomogram; return the id of every row."""
        id_of_row = {}
        for tomogram in convert.clones(tomograms):
            here = rows_of_tomogram(table, tomogram.getTsId(), tomograms.getSize() == 1)
            if not len(here):
                continue
            some = replace(table, rows=table.rows.iloc[here].reset_index(drop=True))
            ids = convert.append_coordinates(
                made, tomogram, counted_in(some, tomogram.getSamplingRate()))
            id_of_row.update(zip(here.tolist(), ids, strict=True))
        return id_of_row

    def _box(self, table):
        if self.boxSize.get():
            return self.boxSize.get()
        if "rlnImageName" not in table.rows:
            return 32
        n = read_header(table.rows["rlnImageName"].iloc[0])[0][0]
        scale = table.voxel_size_angst / self.inputTomograms.get().getSamplingRate()
        return max(1, round(n * scale))

    def _subtomograms(self, table, id_of_row):
        """Output the volumes with their alignment, class, and position where there is one."""
        size = table.voxel_size_angst
        images = SetOfSubTomograms.create(self.getPath(), prefix="subtomograms")
        images.setSamplingRate(size)
        tilts = self._tilts(table)
        images.setAcquisition(convert.new_acquisition(*tilts[0], 0.0))
        if id_of_row:
            images.setCoordinates3D(Pointer(self, extended="coordinates"))
        matrices = scipion_matrices(table.poses)
        names = table.tomogram_names
        for number in range(len(table)):
            row = table.rows.iloc[number]
            image = convert.new_subtomogram(
                os.path.relpath(row["rlnImageName"]), size,
                convert.new_acquisition(*tilts[number], 0.0), matrices[number])
            image.setVolName(names[number])
            if number in id_of_row:
                coordinate = self.coordinates[id_of_row[number]].clone()
                image.setVolName(coordinate.getTomoId())
                image.setCoordinate3D(coordinate)
                convert.set_box_centre(image, self._inTomogram(table, number))
            if "rlnClassNumber" in row:
                image.setClassId(int(row["rlnClassNumber"]))
            images.append(image)
        images.setAlignment3D()
        self._defineOutputs(subtomograms=images)
        if self.inputTomograms.get() is not None:
            self._defineSourceRelation(self.inputTomograms, images)

    def _inTomogram(self, table, number):
        """A row with its position in voxels of the tomograms given."""
        one = replace(table, rows=table.rows.iloc[[number]])
        return counted_in(one, self.inputTomograms.get().getSamplingRate()).rows.iloc[0]

    def _tilts(self, table):
        """The tilt range of each particle; 0 to 0 where the file has none."""
        low, high = table._of_optics("famlTiltMin"), table._of_optics("famlTiltMax")
        if low is None or high is None:
            return [(0.0, 0.0)] * len(table)
        return list(zip(low.astype(float), high.astype(float), strict=True))

    # ---------------------------------------------------------------------------------- info
    def _validate(self):
        errors = []
        path = self.filePath.get()
        if path and not os.path.isfile(path):
            errors.append(f"{path} does not exist.")
            return errors
        name = None
        if path:
            try:
                name = self.formatName()
            except (ValueError, OSError) as error:
                errors.append(f"{error}.")
        if name in ("motl", "peet") and not self.voxelSize.get() and (
                self.exportRun.get() is None or name == "motl"):
            errors.append("This motive list holds no voxel size: give one.")
        low, high = self.tiltMin.get(), self.tiltMax.get()
        if (low is None) != (high is None):
            errors.append("Give both the smallest and the largest tilt, or neither.")
        return errors

    def _summary(self):
        result = self.result()
        if not (hasattr(self, "subtomograms") or hasattr(self, "coordinates")) or not result:
            return self.notReady()
        lines = [f"*{result['n_particles']}* particles of {TITLES[result['format']]}."]
        if result["n_converted"]:
            lines.append(f"{result['n_converted']} volumes were converted to MRC.")
        if hasattr(self, "coordinates"):
            lines.append(f"{self.coordinates.getSize()} positions in tomograms.")
        return lines + [f"{text[0].upper()}{text[1:]}." for text in result["warnings"]]
