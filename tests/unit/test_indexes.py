import numpy as np
import pytest

from helpers import indexes


@pytest.fixture(scope="module")
def pages():
    vectors = np.random.default_rng(1).standard_normal((60, 32)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_filler_is_of_unit_length_and_the_real_pages_come_first(pages):
    crowd = indexes.padded(pages, 2_000)
    assert crowd.shape == (2_000, 32) and crowd.dtype == np.float32
    assert np.array_equal(crowd[:60], pages)
    assert np.allclose(np.linalg.norm(crowd, axis=1), 1, atol=1e-5)
    assert np.array_equal(crowd, indexes.padded(pages, 2_000))
    assert len(indexes.padded(pages, 10)) == 10


def test_nearest_is_what_sorting_everything_gives(pages):
    crowd = indexes.padded(pages, 500)
    for query in pages[:5]:
        right = np.argsort(-(crowd @ query), kind="stable")[:10]
        assert list(indexes.nearest(crowd, query, 10)) == list(right)
    assert len(indexes.nearest(pages, pages[0], 100)) == 60


def test_an_inverted_file_that_looks_into_every_cell_is_exact(pages):
    crowd = indexes.padded(pages, 3_000)
    index = indexes.inverted_file(crowd)
    assert 1 < index.nprobe < index.nlist
    index.nprobe = index.nlist
    for query in pages[:5]:
        found = index.search(query[None], 10)[1][0]
        assert set(found) == set(indexes.nearest(crowd, query, 10))


def test_the_curve_has_a_line_for_each_size(pages, monkeypatch):
    monkeypatch.setattr(indexes, "encode_one", lambda text: pages[len(text)])
    curve = indexes.scale_curve(pages, ["a", "bb", "ccc"], sizes=(50, 400), k=5)
    assert [line["sections"] for line in curve] == [50, 400]
    for line in curve:
        assert 0 <= line["recall"] <= 1
        assert line["query_p50_ms"] >= line["approximate_ms"] > 0
    assert curve[0]["recall"] == 1.0  # so few that there is one cell
