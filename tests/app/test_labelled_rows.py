"""Examples for a head, as they lie in files."""

from pathlib import Path
from time import process_time

import pytest

from app.files import FileError
from app.labelled_rows import Columns, read_examples


def test_a_column_that_holds_no_labels_is_told_at_once(tmp_path: Path) -> None:
    """Such as one of numbers: each row would be a label of its own."""
    rows = "".join(f"text {number},{number}\n" for number in range(20_000))
    (tmp_path / "data.csv").write_text(f"text,label\n{rows}")
    started_at = process_time()
    with pytest.raises(FileError, match="label '0' has 1 examples; each needs 3 at least"):
        read_examples([tmp_path / "data.csv"], Columns())
    assert process_time() - started_at < 5  # rows times labels would take half a minute


def test_rows_that_were_left_out_are_told_where_too_few_remain(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "one,a\n" * 5 + "two,a\ntwo,b\nthree,b\n")
    with pytest.raises(FileError) as refused:
        read_examples([data], Columns())
    assert str(refused.value) == (
        "label 'a' has 1 examples; each needs 3 at least. Left out are rows: 4 that repeat another "
        "and 2 that give one text different labels"
    )
