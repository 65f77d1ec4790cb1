import matplotlib
import pytest

from helpers import plots

matplotlib.use("Agg")


@pytest.mark.parametrize(
    ("gold", "said", "sentence"),
    [
        (["a", "a", "b"], ["a", "b", "b"], "1 of 3 labels are wrong; most often a is taken for b"),
        (["a", "b"], ["a", "b"], "All 2 labels are right."),
        ([], [], "There is no label to compare: not one reply parses."),
    ],
)
def test_a_confusion_matrix_says_what_it_shows_and_when_there_is_nothing_to_show(
    gold, said, sentence, capsys
):
    plots.confusion(gold, said, ["a", "b"])
    assert sentence in capsys.readouterr().out
