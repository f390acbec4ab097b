"""A small benchmark, by the measurements of `refold bench`: the same figures for several workloads."""

from refold import System
from refold.bench import Figures
from refold.bench.measure import Options, live, read, target_of, travel

SECONDS = 1.0
WRITES = {
    "one hot document of 2 KB": (1, 2_048),
    "1,000 documents of 2 KB": (1_000, 2_048),
    "100 documents of 50 KB": (100, 50_000),
}
READ_KINDS = {
    "newest state, 16 reads at a time": "latest over HTTP, 16 in flight",
    "any version, 8 reads at a time": "version over HTTP, 8 in flight",
    "any time, 8 reads at a time": "time over HTTP, 8 in flight",
}


async def run(system: System) -> None:
    """Measure writes and reads; each read is checked by the measurement."""
    print(f"\n▸ Benchmark: batches of patches for {SECONDS} s each, and reads")
    target = target_of(system)
    print("                            events/s  lag at most")
    for name, (documents, size) in WRITES.items():
        figures = Figures()
        options = Options(rounds=1, seconds=SECONDS, documents=documents, document_bytes=size)
        await live(target, options, figures, rate=0)
        (rate,), (lag,) = (
            figures.samples[figure]
            for figure in (("live, uploaded and folded", "events/s"), ("live, lag at most", "s"))
        )
        print(f"  {name:24} {rate:9,.0f} {lag:10.1f} s")
    figures = Figures()
    options = Options(rounds=1, seconds=SECONDS, documents=500)
    await read(target, options, figures)
    await travel(target, options, figures, events=4_000, reads=1_000)
    print("                                    reads/s  half within  99 of 100 within")
    for name, figure in READ_KINDS.items():
        rate = figures.samples[figure, "reads/s"][0]
        p50, p99 = (figures.samples[f"{figure}, {p}", "ms"][0] for p in ("p50", "p99"))
        print(f"  {name:32} {rate:8,.0f} {p50:9.1f} ms {p99:14.1f} ms")
