"""How the package is built, now and at an earlier commit: rooms, floors, imports between rooms, longest file and function.

    python benchmarks/structure.py [--before COMMIT]

A room is a folder of the package, or a file that lies loose beside the folders. An import between rooms counts once, however many files
make it. A room's floor is the longest way down from it; in a circle there is no such way. Writes results/structure.json.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from results_file import Headline, write_result

NAME, ROOT = "structure", Path(__file__).resolve().parents[1]
# the last commit before files were put into rooms
BEFORE = "0c4cd46"
LONG_FILE, LONG_FUNCTION, MANY_ARGUMENTS = 300, 40, 5


@dataclass(frozen=True, slots=True)
class Structure:
    """Figures of one tree; lines are those of the file, arguments those that may be given by position."""

    version: str
    files: int
    lines: int
    rooms: int
    loose_files: int
    floors: int
    imports: int
    circles: int
    longest_file: str
    longest_file_lines: int
    long_files: int
    longest_function: str
    longest_function_lines: int
    long_functions: int
    functions_with_many_arguments: int


def structure_of(package: Path, version: str) -> Structure:
    """Return the figures of a package's folder."""
    files = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))}
    lines = {path.relative_to(package).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    edges = {edge for path, tree in files.items() for edge in imports_between(package, path, tree)}
    functions = {
        f"{path.relative_to(package).as_posix()}:{node.name}": node
        for path, tree in files.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    lengths = {name: (node.end_lineno or node.lineno) - node.lineno + 1 for name, node in functions.items()}
    rooms = {room_of(package, path) for path in files}
    floors, circles = floors_of(rooms, edges)
    longest_file, longest_function = max(lines, key=lines.__getitem__), max(lengths, key=lengths.__getitem__)
    return Structure(
        version=version,
        files=len(files),
        lines=sum(lines.values()),
        rooms=len(rooms),
        loose_files=len(list(package.glob("*.py"))),
        floors=floors,
        imports=len(edges),
        circles=circles,
        longest_file=longest_file,
        longest_file_lines=lines[longest_file],
        long_files=sum(count > LONG_FILE for count in lines.values()),
        longest_function=longest_function,
        longest_function_lines=lengths[longest_function],
        long_functions=sum(count > LONG_FUNCTION for count in lengths.values()),
        functions_with_many_arguments=sum(positional(node) > MANY_ARGUMENTS for node in functions.values()),
    )


def room_of(package: Path, path: Path) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def imports_between(package: Path, path: Path, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (room, other room that it imports)."""
    here = room_of(package, path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package.name:
            inside = (node.module or "").split(".")[1:]
            for name in inside[:1] or [alias.name for alias in node.names]:
                there = name if (package / name).is_dir() or (package / f"{name}.py").is_file() else "__init__"
                if there != here:
                    yield here, there


def floors_of(rooms: set[str], edges: set[tuple[str, str]]) -> tuple[int, int]:
    """Return the number of floors, and of imports that close a circle."""
    circles: set[tuple[str, str]] = set()

    @cache
    def height(room: str, above: tuple[str, ...] = ()) -> int:
        below = [there for here, there in edges if here == room]
        circles.update((room, there) for there in below if there in above or there == room)
        return 1 + max((height(there, (*above, room)) for there in below if there not in (*above, room)), default=0)

    return max(map(height, rooms)), len(circles)


def positional(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many arguments may be given by position, `self` and `cls` aside."""
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def earlier(commit: str, folder: Path) -> Path:
    """Return the package's folder as it was at a commit, unpacked below `folder`."""
    packed = subprocess.run(["git", "archive", commit, "paretopress"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "paretopress"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default=BEFORE, help="commit to compare with")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before = structure_of(earlier(args.before, Path(folder)), args.before)
    now = structure_of(ROOT / "paretopress", "now")
    headlines = [
        Headline("rooms, loose files among them", now.rooms, f"(before: {before.rooms})", 24, now.rooms <= 24),
        Headline("loose files", now.loose_files, f"(before: {before.loose_files})", 5, now.loose_files <= 5),
        Headline("floors", now.floors, f"(before: {before.floors})", 12, now.floors <= 12),
        Headline("imports between rooms", now.imports, f"(before: {before.imports})", 130, now.imports <= 130),
        Headline("imports that close a circle", now.circles, f"(before: {before.circles})", 0, now.circles == 0),
        Headline("lines of the longest file", now.longest_file_lines, f"(before: {before.longest_file_lines})"),
        Headline("lines of the longest function", now.longest_function_lines, f"(before: {before.longest_function_lines})"),
    ]
    write_result(NAME, headlines, [asdict(before), asdict(now)])


if __name__ == "__main__":
    main()
