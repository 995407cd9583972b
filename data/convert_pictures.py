"""Which picture an annotation means: by its name, and where that leaves a choice or a doubt, by the folders it names.

The folders are often those of another machine, and pictures are moved between them; so a picture in another folder than
the named one is taken where its name is the only one of its kind, and that is said. Cameras and videos call all their
first pictures the same: there the folder decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import cached_property, lru_cache
from pathlib import Path

from common.errors import UserError
from common.reading import is_file, is_folder
from data.near_names import composed
from data.places import FOLDER_SPLITS, pictures_under, split_from_name
from data.problems import WARNING, Problem

Folders = tuple[str, ...]
USUAL = frozenset(
    ["annotation", "annotations", "data", "image", "images", "img", "imgs", "jpegimages", "json", "labels", "photos"]
    + ["pictures", "raw", "xml", "xmls"]
)
"""What folders are called that say what kind of file is in them, and not which."""
ELSEWHERE = "picture taken from another folder than the annotation names"
THE_SAME = "nothing, if they are the pictures that were annotated; else give --images the folder that has them"


class Pictures:
    """The pictures under a folder, found by name."""

    def __init__(self, folder: Path):
        if not is_folder(folder):
            raise UserError("there is no such folder of pictures", where=folder, todo="give --images the right folder")
        self.folder = folder
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for path in pictures_under(folder)[0]:
            self._by_name.setdefault(composed(path.name), []).append(path)
            self._by_stem.setdefault(composed(path.stem), []).append(path)
        self._named_in: dict[str, set[Folders]] = {}
        self._top: Folders = ()

    def expect(self, names: Iterable[str]) -> None:
        """All names that one source of annotations has: together they show which of them only folders tell apart."""
        self._named_in = {}
        for name in names:
            folders, last = folders_and_name(name)
            self._named_in.setdefault(last, set()).add(folders)
        # Of pictures that are given one camera at a time, the folder given is one of those that are named.
        top = _plain([self.folder.resolve().name])
        self._top = top if any(top[0] in named for each in self._named_in.values() for named in each) else ()

    def find(self, name: str, hint: str = "", called: str = "") -> Path | None:
        """The picture called `name`: a path relative to the folder, a file name, or a file name without its suffix.

        Args:
            name: its folders may be those of another machine.
            hint: a split or a folder's name, which decides between several that the folders do not tell apart.
            called: a file's name, which decides between several of one stem.

        Raises:
            UserError: several pictures have the name, and nothing tells them apart.
        """
        relative = Path(name.replace("\\", "/"))
        if not relative.is_absolute() and ".." not in relative.parts and is_file(self.folder / relative):
            return self.folder / relative
        found = self._namesakes(name)
        found = [path for path in found if path.name == called] or found
        found = [path for path in found if relative.name in (path.name, path.stem)] or found
        named, last = folders_and_name(name)
        if self._folders_decide(named, last):
            found = [path for path in found if not contradict(named, self._own(path))]
        if len(found) > 1:
            nearness = [nearness_of(named, self._own(path)) for path in found]
            found = [path for path, near in zip(found, nearness, strict=True) if near == max(nearness)]
        if len(found) > 1 and hint:
            found = [path for path in found if _has_part(path.relative_to(self.folder), hint)] or found
        if len(found) > 1:
            raise UserError(
                f"two pictures could be {name!r}: {found[0]} and {found[1]}",
                todo="convert one folder at a time, or give the files different names",
            )
        return found[0] if found else None

    def doubt(self, name: str, picture: Path, file: Path) -> list[Problem]:
        """What is to be said of a picture that was found for a name in the annotations `file`."""
        if not contradict(folders_and_name(name)[0], self._own(picture)):
            return []
        return [Problem(WARNING, ELSEWHERE, file, None, f"{name}: {picture}", THE_SAME)]

    def without(self, name: str) -> str:
        """A name for which there is no picture, and, in words, one of the same name in another folder."""
        return name + "".join(f"; {path} is in another folder" for path in self._namesakes(name)[:1])

    def all(self) -> list[Path]:
        return [path for paths in self._by_name.values() for path in paths]

    @cached_property
    def _folders(self) -> set[str]:
        """All folders there are."""
        return {part for path in self.all() for part in _plain(path.relative_to(self.folder).parts[:-1])}

    def _namesakes(self, name: str) -> list[Path]:
        last = composed(Path(name.replace("\\", "/")).name)
        return self._by_name.get(last) or self._by_stem.get(last) or []

    def _folders_decide(self, named: Folders, last: str) -> bool:
        """Whether a name is worth nothing without its folders: others have it too, or they are here.

        Between the folders of splits pictures are moved.
        """
        nearest = [part for part in named if part not in USUAL][-1:]
        return len(self._named_in.get(last, ())) > 1 or any(
            part in self._folders and not split_from_name(part) for part in nearest
        )

    def _own(self, path: Path) -> Folders:
        return (*self._top, *_plain(path.relative_to(self.folder).parts[:-1]))


def annotation_files(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder, and of those below it, that end so; what macOS keeps beside them begins with a dot."""
    if not is_folder(folder):
        return []
    return sorted(path for path in folder.rglob(f"*{suffix}") if not path.name.startswith("."))


def folders_and_name(name: str) -> tuple[Folders, str]:
    """The folders of a path, "/" before those of an absolute one, and its last part."""
    *folders, last = name.replace("\\", "/").split("/")
    absolute = bool(folders) and (not folders[0] or folders[0].endswith(":"))
    plain = _plain(part for part in folders if part not in ("", ".", "..") and not part.endswith(":"))
    return (("/", *plain) if absolute else plain), composed(last)


def _plain(folders: Iterable[str]) -> Folders:
    """Names of folders as they are compared: without capitals, and train2017 is train."""
    plain = (composed(part).casefold() for part in folders)
    return tuple(FOLDER_SPLITS.get(part.rstrip("0123456789"), part) for part in plain)


@lru_cache(maxsize=10_000)
def contradict(named: Folders, own: Folders) -> bool:
    """Whether folders contradict: at the same place between those that both have, each has another.

    One that only one of both has (``up/cam1`` for ``cam1``) is no contradiction, nor is where a disk begins.
    """
    absolute = named[:1] == ("/",)
    first, second = ([part for part in each if part not in USUAL and part != "/"] for each in (named, own))
    steps = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    return any(
        step == "replace" and not (absolute and start == 0 and end < len(first)) for step, start, end, *_ in steps
    )


@lru_cache(maxsize=10_000)
def nearness_of(named: Folders, own: Folders) -> tuple[bool, int]:
    """How well folders agree, for a comparison: without contradiction, and how many at their end are the same."""
    same = next(
        (n for n, (a, b) in enumerate(zip(reversed(named), reversed(own))) if a != b), min(len(named), len(own))
    )
    return not contradict(named, own), same


def _has_part(path: Path, hint: str) -> bool:
    return any(part == hint or part.startswith(hint) or FOLDER_SPLITS.get(part) == hint for part in path.parts[:-1])
