"""`paretopress cache`: list and shrink the disk cache that runs share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from paretopress.commands.terminal import JsonOption, out, print_json, verb_app
from paretopress.system.disk_cache import cache_root, entries, prune

app = verb_app()


@app.command(epilog="Example: paretopress cache --limit-mb 500")
def cache(
    limit_mb: Annotated[float | None, typer.Option(help="Remove what was not used for longest until the rest takes at most this.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what earlier runs left for later ones (findings, trained students, latencies), and remove what is too much."""
    root = cache_root()
    removed = [] if limit_mb is None else prune(root, int(limit_mb * 1e6))
    held = entries(root)
    kinds = {kind: [entry for entry in held if entry.kind == kind] for kind in sorted({entry.kind for entry in held})}
    value: dict[str, Any] = {
        "folder": str(root),
        "kinds": {kind: {"entries": len(of), "bytes": sum(entry.size_bytes for entry in of)} for kind, of in kinds.items()},
        "removed": len(removed),
    }
    if as_json:
        print_json(value)
        return
    out.print(f"folder: {root}", markup=False, highlight=False)
    for kind, of in value["kinds"].items():
        out.print(f"{kind}: {of['entries']} entries, {of['bytes'] / 1e6:.1f} MB")
    if limit_mb is not None:
        out.print(f"removed: {len(removed)} entries, {sum(entry.size_bytes for entry in removed) / 1e6:.1f} MB")
