"""Run as a program, for a mistake here ends the process: opens a folder, changes it underneath, and continues the text.

usage: changing_folder.py FOLDER WORK CHANGE LOAD...; prints a JSON object for each case.
"""

import json
import os
import shutil
import sys
from itertools import product
from pathlib import Path

from gpt2_runtime import GREEDY, TextGenerator
from gpt2_runtime.errors import BundleError
from gpt2_runtime.explain.explainer import Explainer
from gpt2_runtime.precisions import PRECISIONS

WEIGHTS = {"fp32": "model.safetensors", "int4": "model_q4.safetensors"}


def truncate(path):
    os.truncate(path, 100)


def overwrite(path):
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        file.write(b"\x11" * (size - file.tell()))


def replace(path):
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    other.replace(path)


def overwrite_and_set_the_time_back(path):
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def grow(path):
    with path.open("ab") as file:
        file.write(b"more")


CHANGES = {each.__name__: each for each in (truncate, overwrite, overwrite_and_set_the_time_back, replace, grow)} | {
    "delete": Path.unlink
}


def texts(generator):
    """Long enough that weights are packed on the way."""
    return list(generator.complete("The dog", max_new_tokens=40, sampling=GREEDY, stop_token_ids=()).token_ids)


def explained(explainer):
    return explainer.explain([5, 6, 7]).lens_log_probs.tolist()


def cases(load):
    """Names, what opens the folder, and what is asked of it then."""
    for precision, graph in product(PRECISIONS, ("serving", "portable")):
        settings = {"precision": precision, "graph": graph, "load": load, "threads": 1}
        yield f"{precision} {graph}", precision, lambda folder, s=settings: TextGenerator.open(folder, **s), texts
    late = {"load": load, "threads": 1, "prepack": False}
    yield "fp32 serving, packed late", "fp32", lambda folder: TextGenerator.open(folder, **late), texts
    yield "fp32 explaining", "fp32", lambda folder: Explainer.open(folder, threads=1, load=load), explained


def main(source, work, change, *loads):
    number = 0
    for load in loads:
        for (name, precision, opens, asks), first in product(cases(load), (False, True)):
            folder = Path(shutil.copytree(source, work / str(number)))
            number += 1
            weights = folder / WEIGHTS.get(precision, f"model_{precision}.safetensors")
            os.utime(weights, ns=(0, 10**18))  # so that the next write is not of the same tick of the clock
            record = {"case": name, "load": load, "asked before": first, "expected": asks(opens(folder))}
            print(json.dumps(record | {"starts": True}), flush=True)
            opened = opens(folder)
            if first:
                asks(opened)
            CHANGES[change](weights)
            try:
                print(json.dumps(record | {"found": asks(opened)}), flush=True)
            except BundleError as refusal:
                print(json.dumps(record | {"refused": str(refusal)}), flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
