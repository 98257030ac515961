"""What differs between a benchmark of the CPU and one of a GPU: a table, so that the rest of it need not ask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpu import find_gpu
from peers import HERE, OURS, Variant
from works import CUDA_WORKS, WORKS, Work


@dataclass(frozen=True, kw_only=True)
class Aim:
    """How many times better than a peer ours shall be at a figure, in the precision of the base."""

    figure: str
    peer: str
    least: float


@dataclass(frozen=True, kw_only=True)
class Device:
    """A place to compute, and how it is measured.

    Attributes:
        name: also its key in `DEVICES`.
        title: in the heading of the chart.
        peers: the file that says who is measured.
        results: the folder of table, chart and records.
        prefix: of what is made once and kept for this device.
        precisions: classes of weights; ours in the first is the base, on which the run hangs and whose ids are the
            reference.
        reference: what the table calls those.
        works, quick: what is done, and what `--quick` does of it.
        find: what is in the machine beside its processor, for the report; NoGpuError where it is missing.
        load: what an adapter is told beside model, precision and threads.
        bandwidth, bandwidth_peer: the adapter that measures the memory, and in whose environment; None is the driver's.
        cached: bytes of a number of the keys and values; 0 where the roofline leaves them out.
        resident: whether a runtime's resident size is the memory that it takes.
        crowded: whether the runtimes share a memory that may be too small for all of them. Then each gives back what
            it holds after its turn, so that it works once unmeasured before it is measured; and a work that a runtime
            refuses is left out alone.
        aims: what the table holds ours to.
        roofline: the note under the table; `rooflines` are the works of a table of their own there.
        rule: what becomes of a runtime whose ids are not the reference's.
        label: how wide the names of the chart's bars are.
    """

    name: str
    title: str
    peers: Path
    results: Path
    prefix: str
    precisions: tuple[str, ...]
    reference: str
    works: Mapping[str, Work]
    quick: tuple[str, ...]
    find: Callable[[], str | None] = lambda: None
    load: Mapping[str, object] = field(default_factory=dict)
    bandwidth: str
    bandwidth_peer: str | None = None
    cached: int = 0
    resident: bool = True
    crowded: bool = False
    aims: tuple[Aim, ...] = ()
    roofline: str
    rooflines: tuple[str, ...] = ()
    rule: str
    label: int

    @property
    def base(self) -> Variant:
        """
        >>> str(DEVICES["cpu"].base), str(DEVICES["cuda"].base)
        ('ours fp32', 'ours fp16')
        """
        return Variant(peer=OURS, precision=self.precisions[0])


CPU = Device(
    name="cpu",
    title="on a CPU",
    peers=HERE / "peers.toml",
    results=HERE / "results",
    prefix="",
    precisions=("fp32", "int8", "int4"),
    reference="fp32",
    works=WORKS,
    quick=("decode", "prefill", "start"),
    bandwidth="bandwidth",
    roofline=(
        "In fp32, gpt2-runtime decodes at {part:.0%} of the roofline: each token reads {weights:,.1f} MB of weights, "
        "and {threads} read {high:.1f} GB/s here at most (median {middle:.1f}, lowest {low:.1f})."
    ),
    rule="an fp32 runtime whose ids differ gets no time.",
    label=112,
)

CUDA = Device(
    name="cuda",
    title="on a GPU in fp16",
    peers=HERE / "peers-cuda.toml",
    results=HERE / "results" / "cuda",
    prefix="cuda-",
    precisions=("fp16",),
    reference="gpt2-runtime",
    works=CUDA_WORKS,
    quick=("decode", "decode_64", "prefill"),
    find=find_gpu,
    load={"device": "cuda"},
    bandwidth="bandwidth_cuda",
    bandwidth_peer=OURS,
    cached=2,
    resident=False,
    crowded=True,
    aims=(
        Aim(figure="decode", peer="transformers", least=2.0),
        Aim(figure="decode", peer="transformers_compiled", least=1.0),
        Aim(figure="decode_64", peer="transformers", least=1.5),
    ),
    roofline=(
        "In fp16, gpt2-runtime decodes at {part:.0%} of the roofline at batch 1: each step reads {weights:,.1f} MB of "
        "weights, and of each row {cache:.1f} kB of keys and values for every token so far; this GPU copies "
        "{high:,.0f} GB/s at most, bytes read and bytes written together (median {middle:,.0f}, lowest {low:,.0f}). Of "
        "all works:"
    ),
    rooflines=tuple(name for name, work in CUDA_WORKS.items() if work.new > 1 and name != "start"),
    rule=(
        "in fp16 every runtime rounds in its own way, so ids may part at any token, and what follows then differs too: "
        "they are counted, and nobody loses its time by them."
    ),
    label=180,
)

DEVICES = {device.name: device for device in (CPU, CUDA)}
