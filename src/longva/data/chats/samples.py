"""The samples of a mixture, read once into an index on the disk that every process maps.

    ~/.cache/longva/samples/9f2c.../     (or below XDG_CACHE_HOME), a folder a mixture
      samples.json                       the samples, one after another
      index.npy                          int64 [4, N]: file, first byte, last byte, hash
      media/3f/3fa0....png               files that lay in the rows of Parquet, see `embedded.py`
      problems-....json, lengths-....json   what `MediaDataset` found out about them

Lists of 700,000 samples take minutes and gigabytes to read and to look at; this does it once, for
all processes of a machine and all later runs. The folder's name is a hash of the files' names,
sizes and times and of what is taken of them: changed files make another, and old ones may go.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from longva.data.chats.embedded import EMBEDDED, extract_files, file_of
from longva.data.chats.mixtures import MixtureConfig, mixture_parts, read_samples, take_indices
from longva.data.chats.storage import address, files_of, version
from longva.errors import LongVAError, RecipeError, first_line
from longva.files.writing import read_json, read_lines, whole_file, write_whole
from longva.finite import to_json

FORMAT = "samples 1"


def digest(value: Any) -> str:
    """Return a hash of what JSON can say."""
    return hashlib.blake2b(to_json(value).encode(), digest_size=16).hexdigest()


class Samples:
    """The samples of a mixture.

    Attributes:
        parts: the data sets of the mixture.
        file: int64 [N], which of them a sample is from.
        skipped: bool [N], the samples that are left out.

    Raises:
        RecipeError: a missing file, or a mixture that cannot be taken.
        LongVAError: a file that is not what its name says.
    """

    def __init__(self, config: MixtureConfig):
        self.config = config
        self.parts = mixture_parts(config)
        files = [
            [_whole(part.path), *map(version, files_of(part.path)), part.take]
            for part in self.parts
        ]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        self.folder = cache / "longva" / "samples" / digest([FORMAT, files])
        with self._alone():
            try:
                index, self._bytes = self._open()
            except (OSError, ValueError, EOFError):  # there is none yet, or it is damaged
                self._write()
                index, self._bytes = self._open()
        self.file, self._starts, self._stops, self._keys = index
        self.skipped = np.isin(self._keys, _keys_to_skip(config.skip))

    def __reduce__(self):  # a process of the loader maps the index again instead of copying it
        return type(self), (self.config,)

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        content = self._bytes[self._starts[index] : self._stops[index]].tobytes()
        try:
            return json.loads(content)
        except ValueError as error:
            raise LongVAError(
                f"{self.folder} is damaged: {first_line(error)}. Without it, it is made again."
            ) from None

    def media_folder(self, part: int) -> Path:
        """Return the folder of the media of a data set."""
        given = self.parts[part].media_folder or self.config.media_folder
        return given or self.parts[part].path.parent

    def media_path(self, index: int, name: str) -> Path:
        """Return the path of a medium that sample `index` names."""
        return self.path_in(self.file[index], name)

    def path_in(self, part: int, name: str) -> Path:
        """Return the path of a medium that a sample of a data set names."""
        if name.startswith(EMBEDDED):
            return file_of(name, self.folder / "media")
        return Path(name) if "://" in name else self.media_folder(part) / name

    def num_bytes(self) -> np.ndarray:
        """Return the size of each sample as JSON, int64 [N]."""
        return self._stops - self._starts

    def key(self, index: int) -> str:
        """Return the hash by which `skip` names a sample: of its content, so it holds anywhere."""
        return self._keys[index].tobytes().hex()

    def name(self, index: int) -> str:
        """What messages call a sample."""
        sample = self[index]
        number = index - int(np.searchsorted(self.file, self.file[index]))
        return f"{self.parts[self.file[index]].path}, sample {sample.get('id', f'number {number}')}"

    def remember(self, what: str, settings: Any, make: Callable[[], Any]) -> Any:
        """Return what `make` finds out about the samples, which JSON can say; made once.

        Args:
            what: names it.
            settings: on which it depends besides the samples and their media's folders.
            make: finds it out.
        """
        folders = [_whole(self.media_folder(part)) for part in range(len(self.parts))]
        path = self.folder / f"{what}-{digest([settings, folders])}.json"
        with self._alone():
            with suppress(OSError, ValueError):  # there is none yet, or it is damaged
                return read_json(path)
            write_whole(path, to_json(make()))
        return read_json(path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder's lock; a file system without any lets each process do the work."""
        lock = FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except NotImplementedError:
            pass
        except OSError as error:
            raise RecipeError(
                f"{self.folder} cannot be written: {error}. Set the variable XDG_CACHE_HOME to a "
                "folder that can."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _open(self) -> tuple[np.ndarray, np.ndarray]:
        """Map the index, int64 [4, N], and the bytes of the samples.

        Raises:
            OSError: a file is missing.
            ValueError, EOFError: a file is damaged.
        """
        index = np.load(self.folder / "index.npy", mmap_mode="r")
        content = np.memmap(self.folder / "samples.json", np.uint8, "r")
        if index.dtype != np.int64 or index.shape[:-1] != (4,) or index[2].max() > len(content):
            raise ValueError("the index is not that of the samples")
        return index, content

    def _write(self) -> None:
        rows = [np.empty((4, 0), np.int64)]
        with whole_file(self.folder / "samples.json") as temporary, temporary.open("wb") as file:
            for number, part in enumerate(self.parts):
                ends, digests = [file.tell()], []
                for sample in read_samples(part.path):
                    if part.path.suffix == ".parquet":
                        sample = extract_files(sample, self.folder / "media")
                    content = to_json(sample, ensure_ascii=False).encode()
                    digests.append(hashlib.blake2b(content, digest_size=8).digest())
                    ends.append(ends[-1] + file.write(content))
                try:
                    taken = np.array(take_indices(part.take, digests), np.int64)
                except RecipeError as error:
                    raise RecipeError(f"{part.path}: {error}") from None
                starts, keys = np.array(ends), np.frombuffer(b"".join(digests), np.int64)
                columns = [np.full(len(taken), number), starts[taken], starts[taken + 1]]
                rows.append(np.stack([*columns, keys[taken]]))
            index = np.concatenate(rows, axis=1)
            if not index.size:
                raise RecipeError(f"the mixture of {len(self.parts)} data set(s) has no samples.")
        if (self.folder / "media").is_dir() and hasattr(os, "sync"):  # not on Windows
            os.sync()  # before the index says that they are whole
        with whole_file(self.folder / "index.npy") as temporary, temporary.open("wb") as file:
            np.save(file, index)


def _whole(path: Path) -> str:
    return address(path) or str(path.absolute())


def _keys_to_skip(path: Path | None) -> np.ndarray:
    """Read the hashes of the samples to leave out.

    Raises:
        RecipeError: no such file, or lines of something else.
    """
    if path is None:
        return np.empty(0, np.int64)
    if not path.is_file():
        raise RecipeError(f"There is no {path} to skip. Make it: longva check-data RECIPE")
    try:
        keys = [bytes.fromhex(row["key"]) for row in read_lines(path)]
        return np.frombuffer(b"".join(keys), np.int64)
    except (KeyError, TypeError, ValueError):
        raise RecipeError(
            f"{path} does not name samples by their key, as bad.jsonl of longva check-data does."
        ) from None
