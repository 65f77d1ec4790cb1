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


def test_a_line_that_ends_earlier_than_the_first_says_where(capsys):
    plots.lines(
        {"long": ([0, 1, 10], [1, 2, 3]), "short": ([0, 1, 3], [1, 4, 5])}, "epochs", "loss"
    )
    assert capsys.readouterr().out == (
        "loss, from epochs 0 to 10: long 1 to 3, short 1 to 5 (at 3).\n"
    )
