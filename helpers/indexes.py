"""Search in many vectors: exact, and approximate with an inverted file. Introduced in lesson 02, section 2.5."""

from __future__ import annotations

import time

import numpy as np

from helpers.retrieval import encode_one


def padded(vectors: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """``n`` unit vectors (n, width): the given ones first, then filler.

    A filler vector lies between two of the given ones, with noise of the same length added: a crowd around the real pages, as near to a
    query as a handbook of that size would be. (Embedding a million written pages would take hours here.)
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    rng = np.random.default_rng(seed)
    out = np.empty((max(n, 1), vectors.shape[1]), dtype=np.float32)
    real = min(n, len(vectors))
    out[:real] = vectors[:real]
    for start in range(real, n, 50_000):
        count = min(50_000, n - start)
        a, b = rng.integers(0, len(vectors), (2, count))
        share = rng.random((count, 1), dtype=np.float32)
        noise = rng.standard_normal((count, vectors.shape[1]), dtype=np.float32)
        noise *= 0.7 / np.linalg.norm(noise, axis=1, keepdims=True)
        mixed = share * vectors[a] + (1 - share) * vectors[b] + noise
        out[start : start + count] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return out


def nearest(vectors: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """The places of the ``k`` vectors with the highest cosine to one query, best first: every vector is looked at."""
    scores = vectors @ query
    k = min(k, len(scores))
    top = np.argpartition(-scores, k - 1)[:k]
    return top[np.argsort(-scores[top], kind="stable")]


def inverted_file(vectors: np.ndarray):
    """A ``faiss`` index that sorts vectors into about 4 sqrt(n) cells and looks into the nearest sixteenth of them (at least 8).

    The number of cells is the rule of thumb of faiss's guide (guidelines to choose an index); ``nprobe`` trades time for recall.
    """
    import faiss

    cells = max(1, min(int(4 * len(vectors) ** 0.5), len(vectors) // 39))
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT
    )
    rng = np.random.default_rng(0)
    sample = rng.permutation(len(vectors))[: 64 * cells]
    index.train(vectors[np.sort(sample)])
    index.add(vectors)
    index.nprobe = min(cells, max(8, cells // 16))
    return index


def scale_curve(
    vectors: np.ndarray, tickets: list[str], sizes=(100, 1_000, 10_000, 100_000), k: int = 10
) -> list[dict]:
    """For each size: seconds to build the approximate index, milliseconds a query (median), its recall@k against exact search.

    ``vectors``: the pages' embeddings. Tickets are embedded and searched one at a time, as they come in; ``query_p50_ms`` is embedding
    plus approximate search. Each is embedded once before the clock runs, as on a server that is not new: the first text of a length
    makes the kernels for it.
    """
    for ticket in tickets:
        encode_one(ticket)
    queries, embedding = [], []
    for ticket in tickets:
        started = time.perf_counter()
        queries.append(encode_one(ticket))
        embedding.append(1000 * (time.perf_counter() - started))
    lines = []
    for size in sizes:
        crowd = padded(vectors, size)
        started = time.perf_counter()
        index = inverted_file(crowd)
        line = {"sections": size, "build_s": time.perf_counter() - started}
        exact_ms, near_ms, whole, found = [], [], [], []
        for query, before in zip(queries, embedding):
            started = time.perf_counter()
            right = nearest(crowd, query, k)
            middle = time.perf_counter()
            got = index.search(query[None], k)[1][0]
            ended = time.perf_counter()
            exact_ms.append(1000 * (middle - started))
            near_ms.append(1000 * (ended - middle))
            whole.append(before + near_ms[-1])
            found.append(len(set(right) & set(got)) / len(right))
        line |= {
            "exact_ms": float(np.median(exact_ms)),
            "approximate_ms": float(np.median(near_ms)),
            "embedding_ms": float(np.median(embedding)),
            "query_p50_ms": float(np.median(whole)),
            "recall": float(np.mean(found)),
            "megabytes": crowd.nbytes / 1e6,
        }
        lines.append(line)
    return lines
