from pathlib import Path

import numpy as np
from matplotlib.image import imread

from distill.heatmap import write_heatmap


def test_a_picture_has_a_panel_per_benchmark_and_a_cell_per_score(tmp_path: Path) -> None:
    one = {"topic": {"teacher": {"en": 0.9, "de": 0.8}, "student": {"en": 0.7}}}
    path = tmp_path / "one.png"
    width, height = write_heatmap(path, one, ["en", "de"])
    picture = imread(path)
    assert picture.shape[:2] == (height, width)
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50

    both = one | {"sts": {"teacher": {"en": 0.5}}}
    taller = write_heatmap(path, both, ["en", "de"])
    wider = write_heatmap(path, one, ["en", "de", "sw"])
    assert taller[0] == width
    assert taller[1] > height
    assert wider[0] > width
    assert wider[1] == height


def test_the_higher_score_is_of_another_colour_than_the_lower(tmp_path: Path) -> None:
    path = tmp_path / "two.png"
    write_heatmap(path, {"topic": {"a": {"en": 0.9}, "b": {"en": 0.1}}}, ["en"])
    write_heatmap(tmp_path / "same.png", {"topic": {"a": {"en": 0.9}, "b": {"en": 0.9}}}, ["en"])
    colours = [
        len({tuple(pixel) for pixel in imread(file).round(2).reshape(-1, 4)})
        for file in (path, tmp_path / "same.png")
    ]
    assert colours[0] > colours[1]
