"""The differences between a benchmark on a CPU and on a GPU, as a table, so that no other module branches on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpu import find_gpu
from peers import HERE, OURS, Variant
from works import CUDA_WORKS, WORKS, Work


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A target: how many times better than a peer ours must be at a figure, in the base precision."""

    figure: str
    peer: str
    least: float


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device, and how it is measured.

    Attributes:
        name: also its key in `DEVICES`.
        title: in the chart's heading.
        peers: the file that lists the peers.
        results: the folder of table, chart and records.
        prefix: of the names of things made once for this device.
        precisions: classes of weights; ours in the first is the base, which the run requires and whose ids are the
            reference.
        reference: the table's name for those ids.
        works, quick: the workloads, and those of `--quick`.
        find: describes the device for the report; NoGpuError if it is missing.
        load: further arguments of an adapter's `load`.
        bandwidth, bandwidth_peer: the adapter that measures the memory, and the peer whose environment it uses; None
            means the driver's.
        cached: bytes per number of keys and values; 0 if the roofline leaves them out.
        resident: whether a runtime's resident size is the memory it uses.
        crowded: whether the runtimes share a memory that may be too small for all. Then each releases its memory after
            its turn, so it runs once unmeasured before it is measured, and only a refused workload is left out.
        aims: our targets in the table.
        roofline: the note under the table; `rooflines` are the workloads of a separate table there.
        rule: how a runtime whose ids differ from the reference is treated.
        label: the width of the names beside the chart's bars.
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
        "in fp16 every runtime rounds in its own way, so ids may differ at any token, and then all later ones do: "
        "mismatches are counted, not disqualifying."
    ),
    label=180,
)

DEVICES = {device.name: device for device in (CPU, CUDA)}
