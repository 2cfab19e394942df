"""SupContrast's training step on PyTorch, timed on the same card; needs no TensorFlow.

python scripts/benchmarks/gpu/peer_steps.py --peer=supcontrast:PATH --output_dir=PATH
"""

from _shared import GpuConfig, Results, mib
from _step_tasks import NETWORKS, PRECISIONS, SECONDS, each, start

from supcon_tf.cli import flags


def main(config):
    """Runs the check."""
    results = Results(config, "peer_steps")
    header = ["network", "arithmetic", "step", "views per second", "a step", "memory", "first step"]
    results.table("SupContrast's step, channels last", header)
    python, timed = config.python_of_peer(), []
    for compiled in (False, True):
        for network in NETWORKS:
            for precision in PRECISIONS:
                cells = precision, "torch.compile" if compiled else "eager"
                task = {"kind": "supcontrast", "path": config.peer_path(), "settings": {}}
                timed.append(start(python, network, cells, torch_compile=compiled, **task))
    for one, error in each(timed):
        if error:
            results.failed(one.network, *one.cells, error=error)
            continue
        known, found = one.contestant.ready, one.contestant.ask(f"alone {SECONDS}")
        rate = one.views() * found["steps"] / found["seconds"]
        seconds = found["seconds"] / found["steps"]
        cells = f"{rate:,.0f}", f"{1e3 * seconds:.1f} ms", mib(known["device_bytes"])
        results.row(one.network, *one.cells, *cells, f"{known['first_seconds']:.0f} s")


if __name__ == "__main__":
    flags.run(main, GpuConfig, __doc__)
