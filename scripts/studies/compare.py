r"""Compares methods on one data set: every arm of a study, with several seeds.

    python scripts/studies/compare.py --study=suncet --study_dir=runs/studies

Each arm is pretrained, gets a linear classifier if its method has none, and is evaluated on the
held-out split. Started again, it continues and keeps what is finished. It writes NAME.json and
NAME.png, and prints the table. The studies: scripts/studies/_comparisons.py. Those of Fashion-MNIST
need `write_fashion_mnist.py --output_dir=runs/fashion`; cacr and cacr_imbalance also need a second
folder, runs/fashion_rare, written with `--imbalance=exponential`; knn needs runs/fashion_linear,
written with `--imbalance=linear`; long_tail and orderings need CIFAR-10; several_classes needs
`write_collages.py --output_dir=runs/collages`.
"""

import dataclasses

from _comparisons import STUDIES

from supcon_tf.cli import flags
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareConfig(Config):
    """Methods side by side, over seeds."""

    study: str = setting("suncet", "Which comparison.", choices=tuple(STUDIES))
    study_dir: str = setting("runs/studies", "Directory that the study reads and writes.")
    data_dir: str = setting("", "Where TensorFlow Datasets keeps data ('': its own default).")
    seeds: int = setting(
        3, "Number of seeds for every arm, counted from 0.", at_least=1, at_most=1000
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.study_dir:
            raise UserError("study_dir must name a directory. Received: ''.")


def main(config):
    """Trains what is left, and prints the table."""
    from pathlib import Path

    from _compare_report import draw, table
    from _compare_run import run_study

    from supcon_tf.core.files import write_json

    study, folder = STUDIES[config.study], Path(config.study_dir)
    report = run_study(study, config.seeds, folder / config.study, config.data_dir)
    write_json(folder / f"{config.study}.json", report)
    draw(study, report, folder / f"{config.study}.png")
    print(table(study, report))
    print(f"\n{folder / config.study}.png    {folder / config.study}.json")


if __name__ == "__main__":
    flags.run(main, CompareConfig, __doc__)
