"""What can be done with a cache, in a row: what its buffers lie in must not show."""

import numpy as np


def every_use(session):
    """Logits and lengths of ragged steps, chunks, a roll-back, a selection, a copy and a snapshot."""
    rng = np.random.default_rng(0)
    ids = rng.integers(300, size=40)
    found, cache = [], session.empty_cache(3, capacity=60)
    for rows in ([ids[:7], ids[7:8], ids[8:30]], [ids[30:31], [], ids[31:40]], [ids[:1], ids[1:2], ids[2:3]]):
        logits, cache = session.step(rows, cache)
        found.append(logits)
    logits, cache = session.step([ids[3:6]] * 3, cache.crop([3, 1, 20]), logits_to_keep=2)
    found.append(logits)
    kept = cache.copy()
    logits, cache = session.step([[5], [6], [7], [8]], cache.reorder([2, 0, 0, 1]))
    found.append(logits)
    logits, _ = session.step([[5], [6], [7], [8]], cache.restore(3, kept.snapshot(2, 9)))
    found.append(logits)
    logits, _ = session.step([[5], [6], [7]], kept)
    return [*found, logits]
