r"""Shows which features a contrastive network learns with and without complementary masks.

    python scripts/studies/feature_decoupling.py --study_dir=runs/decoupling

Trains a one-layer network on sparse coding data with every kind of augmentation and every seed, as
in Wen and Li 2021. Started again, it keeps what is finished. It writes a JSON file, a Markdown
table and a figure under the setting's name. How to read them: docs/results/feature_decoupling.md.
"""

import dataclasses

from _decoupling_model import DEMONSTRATION, SETTINGS

from supcon_tf.cli import flags
from supcon_tf.config import settings
from supcon_tf.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecouplingConfig(settings.Config):
    """Which features a contrastive network learns, by augmentation."""

    study_dir: str = settings.setting(
        "runs/decoupling", "Directory that the study reads and writes."
    )
    setting: str = settings.setting(
        DEMONSTRATION,
        "Sizes of data and network: the demonstration, or one of those around it.",
        choices=tuple(SETTINGS),
    )
    seeds: int = settings.setting(
        3, "Number of seeds for every arm, counted from 0.", at_least=1, at_most=1000
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.study_dir:
            raise UserError("study_dir must name a directory. Received: ''.")


def main(config):
    """Trains what is left, and prints the table and what became of the claims."""
    from _decoupling_study import run_study, table

    report = run_study(config.setting, SETTINGS[config.setting], config.seeds, config.study_dir)
    print(table(report["summary"]))
    for one in report["claims"]:
        print(f"{'held' if one['held'] else 'FAILED'}: {one['claim']} ({one['nearest']:.3f})")
    print(f"{config.study_dir}/{config.setting}.png    {config.study_dir}/{config.setting}.json")


if __name__ == "__main__":
    flags.run(main, DecouplingConfig, __doc__)
