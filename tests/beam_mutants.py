"""Known bugs in beam search, each a change to the source of `gpt2_runtime.generation.beam_search`."""

from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from gpt2_runtime.generation import beam_search as beams


class Mutant(NamedTuple):
    right: str
    wrong: str


MUTANTS = {
    "a length penalty that counts the prompt": Mutant(
        "length**self.length_penalty", "(4 + length)**self.length_penalty"
    ),
    "a length penalty that leaves out the stop token": Mutant(
        "config.score(float(sums[place]), length)", "config.score(float(sums[place]), max(1, length - stops[place]))"
    ),
    "a stop token that ends a text wherever it stands": Mutant(
        "np.flatnonzero(ends[: config.num_beams])", "np.flatnonzero(ends)"
    ),
    "a stop token that ends only the best text": Mutant(
        "np.flatnonzero(ends[: config.num_beams])", "np.flatnonzero(ends[:1])"
    ),
    "no more candidates than beams": Mutant(
        "self.num_beams * (1 + max(1, len(self.stop_token_ids)))", "self.num_beams"
    ),
    "candidates for one stop token where there are more": Mutant("(1 + max(1, len(self.stop_token_ids)))", "2"),
    "False taken for True": Mutant("config.early_stopping is True", "config.early_stopping in (True, False)"),
    "False taken for 'never'": Mutant('config.early_stopping == "never" and', "True and"),
    "'never' taken for False": Mutant('config.early_stopping == "never" and', "False and"),
    "a search that ends once nothing can be better than the best": Mutant(
        "search.finished[-1].score", "search.finished[0].score"
    ),
    "a search that continues while the last running beam can be better": Mutant(
        "float(search.log_probabilities[0])", "float(search.log_probabilities[-1])"
    ),
    "a sum of the last token alone": Mutant("before[:, None] + np", "0 * before[:, None] + np"),
    "beams that keep their own keys and values": Mutant(
        "cache.reorder(search.rows)", "cache.reorder(sorted(search.rows))"
    ),
    "log-probabilities rounded to half precision": Mutant(
        "log_probabilities = log_softmax(logits)", "log_probabilities = log_softmax(logits).astype(np.float16)"
    ),
}
OF_CONTROLS = {
    "controls of the logits": Mutant("greedy = config.num_beams == 1", "greedy = True"),
    "controls that do not see the prompt": Mutant("prompt_ids=prompt,", ""),
    "controls that do not see the new tokens": Mutant("new_ids=new_ids,", ""),
}


def mistaken(mutant: Mutant) -> ModuleType:
    """`gpt2_runtime.generation.beam_search` with a mistake."""
    source = Path(str(beams.__file__)).read_text(encoding="utf-8")
    assert source.count(mutant.right) == 1, mutant.right
    module = ModuleType(beams.__name__)
    exec(source.replace(mutant.right, mutant.wrong), module.__dict__)
    return module
