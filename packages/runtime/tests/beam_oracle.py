"""A search of beams over any model that is a function: text -> the log-probability of each token after it."""

import numpy as np
from gpt2_runtime.generation.beam_search import START, advanced, over


def searched(model, config, ends=over):
    """The texts found, and after how many steps."""
    search = START
    while not search.token_ids.shape[1] or not ends(search, config):
        search = advanced(search, np.array([model(text) for text in search.token_ids.tolist()]), config)
    return search.finished, search.token_ids.shape[1]


def whole(beam):
    """A text with its stop token."""
    return beam.token_ids if beam.stop_token_id is None else (*beam.token_ids, beam.stop_token_id)
