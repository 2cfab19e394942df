"""From flags to the class of an image file, every stage a process of its own."""

import json

import pytest
from conftest import write_images


@pytest.mark.slow
def test_from_a_folder_of_images_to_a_prediction(script, tmp_path):
    photos = write_images(tmp_path / "photos", ["dark", "light"], 32, size=(20, 14))
    (photos / "dark" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    run_dir, models = tmp_path / "runs/photos", tmp_path / "saved_models"
    settings = ["--encoder=resnet8", "--width_multiplier=0.25", "--image_size_px=8"]
    settings += ["--batch_size=16", "--epochs=5", "--warmup_epochs=1", f"--run_dir={run_dir}"]

    stopped = script("pretrain", f"--dataset=folder:{photos}", *settings)
    assert stopped.returncode == 2
    assert "cannot read image" in stopped.stderr
    assert "dark/broken.png" in stopped.stderr
    assert not run_dir.exists()

    settings += ["--skip_bad_images"]
    steps = [
        (
            "pretrain",
            [f"--dataset=folder:{photos}", *settings],
            "unreadable images left out: 1 (dark/broken.png",
        ),
        ("train_classifier", [f"--run_dir={run_dir}", "--epochs=10"], "training top-1"),
        ("evaluate", [f"--run_dir={run_dir}", "--knn_neighbors=5"], "top1"),
        ("export", [f"--run_dir={run_dir}", f"--saved_models_dir={models}"], "tflite int8"),
    ]
    for name, flags, said in steps:
        finished = script(name, *flags)
        assert finished.returncode == 0, finished.stderr
        assert said in finished.stdout + finished.stderr
        assert "Warning:" not in finished.stderr

    metrics = json.loads((run_dir / "metrics.json").read_text())
    # Mean brightness tells the classes apart, and views change it by less than their distance.
    assert metrics["test"]["top1"] > 0.9
    assert metrics["export"]["saved_model"]["max_difference"] < 1e-5

    new = write_images(tmp_path / "new", ["light"], 2, mode="L", size=(31, 40), level=210)
    image = new / "light" / "000.png"
    finished = script("predict", f"--model={models / 'photos'}", "--top_k=2", image, new)
    assert finished.returncode == 0, finished.stderr
    rows = [line.split("\t") for line in finished.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(image), str(new / "light" / "001.png")]
    for _, first, share, second, rest in rows:
        assert (first, second) == ("light", "dark")
        assert float(share) + float(rest) == pytest.approx(1, abs=1e-3)

    broken = script("predict", f"--model={models / 'photos'}", photos / "dark" / "broken.png")
    assert broken.returncode == 3
    assert "dark/broken.png: the bytes are not a whole" in broken.stderr.splitlines()[0]
