"""Make a checkpoint small enough to ship.

    python tools/shrink_checkpoint.py runs/student/model.pt student.pt

A student keeps what it computes, bit for bit: each quantised weight becomes the value of its integer, which packs to
about its bits, and the script checks that no integer changed. A float model is rounded to half precision: score it
again afterwards.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import torch

from qdbev_deploy.files import atomic_output
from qdbev_deploy.quant import load_model
from qdbev_deploy.quant.quantise import integers, is_quantised

ORIGINAL = ".original"  # what torch's parametrisation appends to the name of a weight that it wraps


def shrunk(source: Path) -> dict[str, object]:
    """The checkpoint's content with smaller tensors."""
    model, _ = load_model(source)
    content: dict[str, object] = torch.load(source, weights_only=True)
    tensors = dict(content["state_dict"])  # type: ignore[call-overload]
    if not is_quantised(model):
        return {**content, "state_dict": {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}}
    for name in tensors:
        if name.endswith(ORIGINAL):
            path, _, weight = name.removesuffix(ORIGINAL).replace(".parametrizations.", ".").rpartition(".")
            tensors[name] = getattr(model.get_submodule(path), weight).detach().half().clone()
    return {**content, "state_dict": tensors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    with atomic_output(args.target) as partial:
        plain = partial.with_suffix(".plain")
        try:
            torch.save(shrunk(args.source), plain)
            with (
                zipfile.ZipFile(plain) as stored,
                zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out,
            ):
                for item in stored.infolist():
                    out.writestr(item.filename, stored.read(item.filename))
        finally:
            plain.unlink(missing_ok=True)
        before, after = (load_model(path)[0] for path in (args.source, partial))
        if is_quantised(before):
            ours, theirs = integers(before).weights, integers(after).weights
            changed = [name for name in ours if not torch.equal(ours[name].integers, theirs[name].integers)]
            if changed:
                raise SystemExit(f"integers of {len(changed)} weights would change, {changed[0]} first: not written")
    print(f"{args.target}: {args.source.stat().st_size:,} bytes became {args.target.stat().st_size:,}")


if __name__ == "__main__":
    main()
