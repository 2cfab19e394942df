"""Files to classify by a server that answers in this process."""

import pytest


@pytest.fixture
def images(tmp_path):
    """Five files that only a server looks into."""
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"image %d" % number)
    return [str(tmp_path / f"{number}.png") for number in range(5)]
