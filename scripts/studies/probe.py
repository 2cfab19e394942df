r"""Scores the encoders of a comparison by logistic regression on the images of another data set.

    python scripts/studies/probe.py --study=cacr --study_dir=runs/studies \
        --dataset=folder:runs/fashion

For encoders that were trained on few or imbalanced images: the classifier is trained on the
training split given here, and scored on its held-out split. It writes NAME_probe.json and prints
the table.
"""

import dataclasses

from _comparisons import STUDIES

from supcon_tf.cli import flags
from supcon_tf.config.settings import Config, setting
from supcon_tf.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeConfig(Config):
    """Linear scores of encoders on another data set."""

    study: str = setting("cacr", "Which comparison.", choices=tuple(STUDIES))
    study_dir: str = setting("runs/studies", "Directory that compare.py wrote.")
    dataset: str = setting("folder:runs/fashion", "Images to train and to score with.")
    seeds: int = setting(
        3, "Number of seeds for every arm, counted from 0.", at_least=1, at_most=1000
    )


def main(config):
    """Scores every encoder, and prints the table."""
    from pathlib import Path

    from _compare_report import spread

    from supcon_tf.core.files import write_json
    from supcon_tf.stages.tables import format_table

    study, folder, found = STUDIES[config.study], Path(config.study_dir), {}
    for title in study.arms:
        runs = [
            folder / config.study / title.replace(" ", "_") / str(s) for s in range(config.seeds)
        ]
        missing = [run for run in runs if not (run / "encoder.keras").exists()]
        if missing:
            raise UserError(f"{missing[0]}/encoder.keras not found. Run compare.py first.")
        found[title] = [probe(run, config.dataset, study.base.get("image_size_px")) for run in runs]
    write_json(folder / f"{config.study}_probe.json", {"dataset": config.dataset, "top1": found})
    rows = [[title, spread(scores)] for title, scores in found.items()]
    print(format_table([f"linear, on {config.dataset}", "top1"], rows))


def probe(run, dataset, image_size_px):
    """The held-out accuracy of logistic regression on a run's features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from supcon_tf import open_dataset
    from supcon_tf.stages.features import extract_features
    from supcon_tf.stages.run_directory import RunDirectory

    encoder = RunDirectory(str(run)).load_model("encoder")
    data = open_dataset(dataset, image_size_px=image_size_px)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(*extract_features(encoder, data.train))
    return float(classifier.score(*extract_features(encoder, data.test)))


if __name__ == "__main__":
    flags.run(main, ProbeConfig, __doc__)
