"""What the wizards share: errors told in one line, lists to choose from."""

from __future__ import annotations

from pathlib import Path

from pwem.wizards import EmWizard

from scipion_faml.protocols.protocol_base import words_of


class FamlWizard(EmWizard):
    """A wizard that says in one line what is missing; it has no targets of its own."""

    _targets = []

    def show(self, form, *params):
        """Help with a row of the form (Scipion calls this)."""
        try:
            self.helpWith(form)
        except (ValueError, OSError) as error:
            text = str(error)
            form.showInfo(text[:1].upper() + text[1:])

    def helpWith(self, form):
        """Fill in the row, or open the window that does.

        Raises
        ------
        ValueError, OSError
            What must be chosen first, or is wrong with what was chosen.
        """
        raise NotImplementedError

    @staticmethod
    def rowOf(form, names):
        """Return the name of the row whose wand was clicked: one of `names`, or the first."""
        name = getattr(form, "wizParamName", None)
        return name if name in names else names[0]


def chosen(pointer, what):
    """Return what a pointer row points to.

    Raises
    ------
    ValueError
        If nothing was chosen, or it is gone.
    """
    target = pointer.get()
    if target is None:
        raise ValueError(f"Choose {what} first.")
    return target


def filled(pointer, what):
    """Return the set a pointer row points to, which has something in it; of classes their images.

    Raises
    ------
    ValueError
        If nothing was chosen, or the set is empty or has no voxel size.
    """
    target = chosen(pointer, what)
    target = target.getImages() if hasattr(target, "getImages") else target
    if not target.getSize():
        raise ValueError(f"The set of {what.removeprefix('the ')} is empty: choose another.")
    if not (target.getSamplingRate() or 0) > 0:
        raise ValueError(f"The set of {what.removeprefix('the ')} has no voxel size: import it "
                         "again.")
    return target


def converted_folder(protocol):
    """Return the project's folder for volumes that are converted to be looked at."""
    return Path(protocol.getProject().getTmpPath("faml"))


def choose(form, title, columns, rows, message="", several=False):
    """Let one row of a table be chosen, or several; return the chosen rows' first words.

    Parameters
    ----------
    columns : names and widths (pixels)
    rows : tuples of words; the first is what is chosen
    """
    from pyworkflow.gui.dialog import ListDialog  # opens windows
    from pyworkflow.gui.tree import TreeProvider

    class Rows(TreeProvider):
        def getColumns(self):
            return list(columns)

        def getObjects(self):
            return [Row(words) for words in rows]

        def getObjectInfo(self, obj):
            return {"key": obj.words[0], "text": obj.words[0], "values": obj.words[1:]}

    dialog = ListDialog(
        form.root, title, Rows(), message or None, selectOnDoubleClick=not several,
        selectmode="extended" if several else "browse")
    return [row.words[0] for row in dialog.values] if dialog.resultYes() else []


class Row:
    """A row of a list; Scipion's tree keeps an attribute of its own in it."""

    def __init__(self, words):
        self.words = words


def set_words(form, name, words):
    """Put words, separated by commas, into a row."""
    form.setVar(name, ", ".join(words_of(",".join(words))))
