"""Prints the class and its probability for image files or folders of them.

python scripts/predict.py --model=saved_models/digits image.png more_images/
"""

import _flags

from supcon_tf.config import PredictConfig
from supcon_tf.errors import UserError


def main(config, images):
    """Predicts and prints one line per image: path, class and probability, tab-separated."""
    if not images:
        raise UserError("no image given. Give image files or folders after the flags.")
    from supcon_tf.prediction import predict

    for result in predict(config, images):
        pairs = zip(result["classes"], result["probabilities"], strict=True)
        cells = [cell for name, share in pairs for cell in (name, f"{share:.4f}")]
        print("\t".join([result["image"], *cells]), flush=True)


if __name__ == "__main__":
    _flags.run(main, PredictConfig, __doc__, positional=True)
