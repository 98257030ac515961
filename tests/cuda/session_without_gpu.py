"""Opens every precision of a folder on CUDA and prints, as JSON, where its operators run, or why it is refused.

It is given the folder: `test_without_a_gpu.py` runs it where CUDA is pretended.
"""

import json
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
from gpt2_runtime import Session
from gpt2_runtime.cache import Snapshot
from gpt2_runtime.errors import SettingError
from gpt2_runtime.explanation import Explainer
from gpt2_runtime.placement import placed
from gpt2_runtime.providers import PROVIDERS


def main(folder: str) -> None:
    """The program."""
    found: dict[str, Any] = {}
    for precision in ("fp32", "fp16", "int8", "int4"):
        found[f"{precision} default"] = Session.open(folder, provider="cuda", precision=precision).graph
        session = Session.open(folder, provider="cuda", precision=precision, graph="portable")
        found[f"{precision} portable"] = asdict(session.placement) if session.placement else None
        try:
            session = Session.open(folder, provider="cuda", precision=precision, graph="serving")
        except SettingError as error:
            found[f"{precision} serving"] = str(error)
            continue
        found[f"{precision} serving"] = asdict(session.placement) if session.placement else None
        move_rows(session)
    explainer = Explainer.open(folder, provider="cuda")
    placement = placed(explainer.inference, PROVIDERS["cuda"], explainer.bundle.architecture.n_layer)
    found["explaining"] = asdict(placement) if placement else None
    print(json.dumps(found))


def move_rows(session: Session) -> None:
    """What a cache on the device can do without a kernel, and a binding to it."""
    cache: Any = session.empty_cache(3, capacity=20)
    engine = cache.owner
    text = np.random.default_rng(0).random((*cache.layout[0][:3], 7, cache.layout[0][3])).astype(np.float16)
    snapshot = Snapshot(owner=cache.owner, array=text)
    moved = cache.given(1, snapshot).selected([1, 0, 1, 1]).rolled_back(0).given(2, snapshot).copy()
    np.testing.assert_array_equal(moved.taken(2, 7).array, text)
    session.step([[5, 6], [], [7], [8]], moved)


if __name__ == "__main__":
    main(sys.argv[1])
