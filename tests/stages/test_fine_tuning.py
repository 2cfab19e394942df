"""Fine-tuning: what is trained and kept, early stopping, resuming, and what comes after it."""

import shutil

import keras
import numpy as np
import pytest
from conftest import write_images
from run_contents import signal_at, weights

import supcon_tf
from supcon_tf import ClassifierConfig, EvaluateConfig, PretrainConfig, UserError
from supcon_tf.data.datasets import from_config
from supcon_tf.networks.encoders import build_encoder
from supcon_tf.networks.heads import features_of
from supcon_tf.networks.stages import split_into_stages
from supcon_tf.stages.fine_tuning import freeze_first_stages
from supcon_tf.stages.run_directory import RunDirectory
from supcon_tf.stages.same_settings import check_same_settings

FEW = {"batch_size": 8, "epochs": 3, "learning_rate": 0.2, "encoder_rate_factor": 0.1}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run with 42 training and 14 validation images of two classes; its encoder is random."""
    folder = tmp_path_factory.mktemp("fine_tuning")
    write_images(folder / "photos", ["dark", "light"], 35)
    config = PretrainConfig(
        dataset=f"folder:{folder / 'photos'}",
        image_size_px=8,
        width_multiplier=0.25,
        validation_fraction=0.25,
        run_dir=str(folder / "run"),
    )
    with RunDirectory(config.run_dir) as run:
        run.begin("pretrain", config, from_config(config).describe())
        run.save_model(build_encoder("resnet8", 8, 0.25), "encoder")
    return folder / "run"


@pytest.fixture
def run_dir(pretrained, tmp_path):
    return str(shutil.copytree(pretrained, tmp_path / "run"))


def load(run_dir, name):
    return keras.saving.load_model(f"{run_dir}/{name}.keras", compile=False)


def test_the_last_stage_is_trained_and_evaluated_and_the_rest_stays(run_dir, tmp_path):
    before = (tmp_path / "run/encoder.keras").read_bytes()
    scores = supcon_tf.train_classifier(ClassifierConfig(run_dir=run_dir, fine_tune="1", **FEW))
    assert (tmp_path / "run/encoder.keras").read_bytes() == before
    assert scores["fine_tuned"] == "1"
    assert RunDirectory(run_dir).metrics()["classifier"] == scores
    classifier, encoder = load(run_dir, "classifier"), load(run_dir, "encoder")
    tuned = features_of(classifier).layers[-1]
    for number, same in enumerate(map(unchanged, *map(stage_weights, (encoder, tuned)))):
        assert not any(same) if number == 2 else all(same)  # Batch norm's statistics too.
    check_evaluation(run_dir, classifier, encoder)


def stage_weights(encoder):
    """Of each stage the weights."""
    stages = split_into_stages(encoder).layers
    return [[weight for layer in stage for weight in layer.weights] for stage in stages]


def unchanged(before, after):
    return [np.array_equal(left, right) for left, right in zip(before, after, strict=True)]


def check_evaluation(run_dir, classifier, encoder):
    """Likelihood is the classifier's, whose features differ; neighbours are the encoder's."""
    dataset, linear = RunDirectory(run_dir).open_dataset(), classifier.get_layer("logits")
    images, labels = next(iter(dataset.test.images(8, 100)))
    logits = classifier(images)["logits"].numpy()
    assert np.abs(logits - linear(encoder(images)).numpy()).max() > 0.1
    scores = supcon_tf.evaluate(EvaluateConfig(run_dir=run_dir, knn_neighbors=5))
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    assert scores["nll"] == pytest.approx(np.mean(expected), rel=1e-4)
    gallery, known = next(iter(dataset.train.images(8, 100)))
    voted = supcon_tf.knn_predict(encoder(gallery).numpy(), known.numpy(), encoder(images), 5)
    assert scores["knn_top1"] == np.mean(voted == labels)


@pytest.mark.slow
def test_the_export_is_the_fine_tuned_network(run_dir, tmp_path):
    supcon_tf.train_classifier(ClassifierConfig(run_dir=run_dir, fine_tune="all", **FEW))
    supcon_tf.evaluate(EvaluateConfig(run_dir=run_dir, knn_neighbors=5))
    models = str(tmp_path / "models")
    config = supcon_tf.ExportConfig(run_dir=run_dir, saved_models_dir=models, formats="saved_model")
    assert supcon_tf.export(config)["saved_model"]["max_difference"] < 1e-5
    card = (tmp_path / "models/run/1/MODEL_CARD.md").read_text()
    assert "held-out images (features of the encoder before it was fine-tuned): " in card
    bundle = supcon_tf.load_bundle(tmp_path / "models/run/1")
    images, _ = next(iter(RunDirectory(run_dir).open_dataset().test.images(8, 100)))
    logits = load(run_dir, "classifier")(images)["logits"].numpy()
    found = np.array(bundle.classify(images.numpy())["probabilities"])
    np.testing.assert_array_equal(found.argmax(axis=1), logits.argmax(axis=1))


def test_it_stops_early_and_keeps_the_best_epoch(run_dir, capsys):
    config = ClassifierConfig(run_dir=run_dir, fine_tune="all", patience=2, batch_size=8, epochs=60)
    scores = supcon_tf.train_classifier(config)
    curve = RunDirectory(run_dir).history()["classifier"]["validation_top1"]
    best = int(np.argmax(curve))
    assert len(curve) == best + 1 + 2 < 60
    assert (scores["best_epoch"], scores["validation_top1"]) == (best + 1, curve[best])
    validation = supcon_tf.evaluate(
        EvaluateConfig(run_dir=run_dir, split="validation", knn_neighbors=5)
    )
    assert validation["top1"] == curve[best]
    stopped = f"stopped after epoch {best + 3}: no better validation top-1 after epoch {best + 1}"
    assert stopped in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_one_ends_like_an_uninterrupted_one(pretrained, tmp_path, monkeypatch):
    whole, broken = (
        ClassifierConfig(
            run_dir=str(shutil.copytree(pretrained, tmp_path / name)),
            resume=True,
            fine_tune="2",
            class_weights="effective",
            logit_adjustment=0.5,
            label_smoothing=0.1,
            **FEW,
        )
        for name in ("whole", "broken")
    )
    expected = supcon_tf.train_classifier(whole)
    for step in (2, 9):
        with monkeypatch.context() as patch:
            signal_at(patch, step)
            with pytest.raises(SystemExit):
                supcon_tf.train_classifier(broken)
    found = supcon_tf.train_classifier(broken)
    for left, right in zip(
        weights(whole.run_dir, "classifier"), weights(broken.run_dir, "classifier"), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}


@pytest.mark.slow
@pytest.mark.multi_device
def test_two_replicas_train_as_one_device_does(pretrained, tmp_path):
    found = []
    for strategy in ("one_device", "mirrored"):
        run_dir = str(shutil.copytree(pretrained, tmp_path / strategy))
        config = ClassifierConfig(run_dir=run_dir, fine_tune="all", strategy=strategy, **FEW)
        supcon_tf.train_classifier(config)
        found.append(weights(run_dir, "classifier"))
    for left, right in zip(*found, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine_tune": "9"}, "at most the encoder's 3 stages, or all. Received: 9"),
        (
            {"fine_tune": "all", "batch_size": 64},
            "batch_size must be at most 42, the number of training images",
        ),
        ({"fine_tune": "all", "augmentation": "x"}, "augmentation must be one of .*Received: 'x'"),
    ],
)
def test_what_does_not_suit_the_run_is_refused_before_anything_is_written(
    run_dir, changes, message
):
    with pytest.raises(UserError, match=message):
        supcon_tf.train_classifier(ClassifierConfig(run_dir=run_dir, **{**FEW, **changes}))
    assert "classifier" not in RunDirectory(run_dir).stages()


def test_patience_needs_validation_images_and_a_number_needs_stages(finished_run):
    settings = {"run_dir": str(finished_run), "overwrite": True, "fine_tune": "all"}
    with pytest.raises(UserError, match="patience needs validation images. Received: patience=3"):
        supcon_tf.train_classifier(ClassifierConfig(patience=3, **settings))
    images = keras.Input((8, 8, 3))
    plain = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images))
    with pytest.raises(
        UserError, match="fine_tune=1: only a network by name.*Pass --fine_tune=all"
    ):
        freeze_first_stages(plain, "1")


def test_a_cluster_is_refused(run_dir, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(UserError, match="runs on one machine, but TF_CONFIG is set"):
        supcon_tf.train_classifier(ClassifierConfig(run_dir=run_dir, fine_tune="all"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine_tune": "0"}, "fine_tune must be none, all, or a number .* Received: '0'"),
        ({"fine_tune": "last"}, "fine_tune must be none, all, or a number .* Received: 'last'"),
        ({"patience": 3}, "patience is for fine-tuning. Received: patience=3 with fine_tune=none"),
        ({"augmentation": "cifar"}, "augmentation is for fine-tuning"),
        ({"strategy": "mirrored"}, "strategy is for fine-tuning"),
        ({"encoder_rate_factor": 0.5}, "encoder_rate_factor is for fine-tuning"),
        ({"class_weights_beta": 0.5}, "class_weights_beta is for --class_weights=effective"),
        ({"class_weights": "balanced"}, "one of inverse, effective. Received: 'balanced'"),
        ({"epochs": 2, "warmup_epochs": 2}, "warmup_epochs must be below epochs"),
    ],
)
def test_settings_that_would_have_no_effect_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        ClassifierConfig(**changes)


def test_a_setting_that_came_later_had_its_default_when_a_stage_is_continued(tmp_path):
    kept = {"batch_size": 256, "epochs": 100}
    check_same_settings(tmp_path, kept, ClassifierConfig())
    with pytest.raises(UserError, match="label_smoothing was 0.0. Received: 0.1. Give the same"):
        check_same_settings(tmp_path, kept, ClassifierConfig(label_smoothing=0.1))


def test_defaults_depend_on_what_is_trained():
    linear, tuned = ClassifierConfig(), ClassifierConfig(fine_tune="all")
    assert (linear.batch_size, linear.epochs, linear.learning_rate) == (256, 100, 0.5)
    assert (linear.weight_decay, linear.warmup_epochs) == (0.0, 0.0)
    assert (tuned.batch_size, tuned.epochs, tuned.learning_rate) == (64, 30, 0.05)
    assert (tuned.weight_decay, tuned.warmup_epochs) == (1e-4, 3.0)
