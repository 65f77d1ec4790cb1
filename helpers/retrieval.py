"""Find the handbook section for a ticket: BM25, MiniLM, their fusion, and how well each does.

Introduced in lesson 02. A retriever gives scores of shape (tickets, sections); ``top_k`` picks the best.
"""

from __future__ import annotations

from copy import copy
from functools import lru_cache

import numpy as np

from helpers import runtime
from helpers.data import Section, handbook, masked


@lru_cache(maxsize=1)
def encoder():
    """all-MiniLM-L6-v2 (384 dimensions, 256 tokens), from the installed wheel."""
    from sentence_transformers import SentenceTransformer

    from helpers.models import minilm_dir

    return SentenceTransformer(minilm_dir(), device="cpu")


_embedded: dict[str, np.ndarray] = {}


def embed(texts: list[str]) -> np.ndarray:
    """Unit vectors of shape (len(texts), 384), float32; their dot product is the cosine similarity.

    A text is encoded once in a session and remembered, so four retrievers over the same tickets cost one.
    """
    new = [text for text in dict.fromkeys(texts) if text not in _embedded]
    if new:
        _embedded.update(zip(new, _kept(encode)(new)))
    return np.stack([_embedded[text] for text in texts])


def encode(texts: list[str]) -> np.ndarray:
    """``embed`` without the memory."""
    return encoder().encode(
        texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False
    )


@lru_cache(maxsize=1)
def _query_model():
    """The encoder's transformer alone, in bf16 where the CPU has it."""
    from copy import deepcopy

    model = deepcopy(encoder()[0].auto_model).eval()
    return model.bfloat16() if runtime.detect().fast_bf16 else model


def encode_one(text: str) -> np.ndarray:
    """Unit vector (384,) of one text as a server would compute it: no batch machinery, 16 bits where the CPU has them.

    Its cosine with ``encode``'s vector is above 0.999 (unit test).
    """
    import torch

    limit = encoder().max_seq_length
    inputs = encoder().tokenizer([text], truncation=True, max_length=limit, return_tensors="pt")
    with torch.inference_mode():
        vector = _query_model()(**inputs).last_hidden_state[0].float().mean(0)
    return (vector / vector.norm()).numpy()


def _classifier(C: float):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, max_iter=300)


def _fit(features, owner, C: float):
    return _classifier(C).fit(features, owner)


def _out_of_fold(features, owner, C: float, folds: int) -> np.ndarray:
    """P(owner) of each row, (rows, owners), from a model fitted without its fold; a fold is fitted on each core at a time."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    cores = -1 if len(owner) > 1000 else 1  # for a few rows, starting processes takes longer
    return cross_val_predict(
        _classifier(C), features, owner, cv=split, method="predict_proba", n_jobs=cores
    )


def _kept(function):
    """The function, with its results kept in ``runs/cache`` by what went in (``joblib.Memory``): the next lesson reads them.

    Another scikit-learn may fit another model, so each version has a folder of its own.
    """
    import sklearn
    from joblib import Memory

    return Memory(runtime.runs_dir() / "cache" / sklearn.__version__, verbose=0).cache(function)


class BM25:
    """Word overlap weighted by rarity (Robertson & Zaragoza 2009), by the library ``bm25s``."""

    name = "BM25"

    def __init__(self, sections: tuple[Section, ...]):
        import bm25s

        self.sections = tuple(sections)
        self._index = bm25s.BM25()
        self._index.index(self._tokens([s.passage for s in self.sections]), show_progress=False)

    @staticmethod
    def _tokens(texts: list[str]):
        import bm25s

        return bm25s.tokenize(texts, stopwords="en", show_progress=False, return_ids=False)

    def scores(self, tickets: list[str]) -> np.ndarray:
        """Scores of shape (tickets, sections); higher is better."""
        none = np.zeros(len(self.sections))  # a ticket without any word to search by
        rows = [self._index.get_scores(t) if t else none for t in self._tokens(tickets)]
        return np.stack(rows)


class Dense:
    """Cosine similarity of MiniLM sentence embeddings (Reimers & Gurevych 2019)."""

    name = "MiniLM"

    def __init__(self, sections: tuple[Section, ...]):
        self.sections = tuple(sections)
        self._vectors = embed([s.passage for s in self.sections])

    def scores(self, tickets: list[str]) -> np.ndarray:
        return embed(tickets) @ self._vectors.T


class Hybrid:
    """Reciprocal rank fusion: the sum of 1 / (k + rank) over retrievers, k = 60 (Cormack et al. 2009)."""

    name = "fusion"

    def __init__(self, *retrievers, k: int = 60):
        self.retrievers, self.k, self.sections = retrievers, k, retrievers[0].sections

    def scores(self, tickets: list[str]) -> np.ndarray:
        return sum(1.0 / (self.k + ranks(r.scores(tickets))) for r in self.retrievers)


class Learned:
    """What answered tickets teach, plus MiniLM: log P(section | ticket) + ``weight`` x cosine similarity.

    P is a logistic regression (scikit-learn, ``C`` inverse regularisation) on two views of past tickets: their MiniLM
    embeddings, and tf-idf of their character 2- to 4-grams, ``letters`` times as long, which meet misspelt and rare words
    where an embedding blurs them. It trains in a few seconds. Tickets outside the handbook are one more class,
    "nothing". The cosine to the section's own text keeps sections without any past ticket within reach.
    ``C``, ``weight``, ``letters`` and ``threshold`` were chosen on validation (lesson 02, section 2.5).
    """

    name = "learned"
    threshold = 0.3

    def __init__(
        self,
        sections: tuple[Section, ...],
        past: list[dict],
        C: float = 30.0,
        weight: float = 5.0,
        letters: float = 2.0,
    ):
        self.dense = Dense(sections)
        self.sections, self.weight, self.C, self.letters = self.dense.sections, weight, C, letters
        self.past = list(past)
        place = {s.policy: i for i, s in enumerate(self.sections)}
        self._owner = np.array([place.get(row["reply"]["policy"], len(place)) for row in self.past])
        self._tfidf = self._count([row["ticket"] for row in self.past]) if letters else None
        self._features = self._both([row["ticket"] for row in self.past])
        self._model = _kept(_fit)(self._features, self._owner, C)
        self._folds: np.ndarray | None = None

    @staticmethod
    def _count(tickets: list[str]):
        from sklearn.feature_extraction.text import TfidfVectorizer

        least = 3 if len(tickets) > 100 else 1
        return TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=least
        ).fit(map(masked, tickets))

    def _both(self, tickets: list[str]):
        """Features of shape (tickets, 384 + n-grams), sparse, in 64 bit."""
        from scipy.sparse import csr_matrix, hstack

        # in 64 bit: in 32 the solver stops where rounding leads it, and that differs from run to run
        vectors = embed(tickets).astype(np.float64)
        if self._tfidf is None:
            return vectors
        grams = self._tfidf.transform(map(masked, tickets))
        return hstack([csr_matrix(vectors), self.letters * grams]).tocsr()

    def _probabilities(self, model, features) -> np.ndarray:
        """P(section | ticket), with "nothing" in the last column: shape (tickets, sections + 1)."""
        out = np.zeros((features.shape[0], len(self.sections) + 1))
        out[:, model.classes_] = model.predict_proba(features)
        return out

    def _scores(self, probabilities: np.ndarray, tickets: list[str]) -> np.ndarray:
        return np.log(probabilities[:, :-1] + 1e-6) + self.weight * self.dense.scores(tickets)

    def scores(self, tickets: list[str]) -> np.ndarray:
        """Scores of shape (tickets, sections)."""
        return self._scores(self._probabilities(self._model, self._both(tickets)), tickets)

    def p_nothing(self, tickets: list[str]) -> np.ndarray:
        """The probability that no section answers, for each ticket."""
        return self._probabilities(self._model, self._both(tickets))[:, -1]

    def unseen(self, rows: list[dict], folds: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Scores and P(nothing) for training rows as if each were new: from models trained without its fold.

        Lesson 04 builds its training contexts with this, so that they hold mistakes; most are mended
        there, down to the share at work (``methods.REPAIRED``). Raises KeyError for a row that is not among the past tickets.
        """
        if self._folds is None:
            self._folds = np.zeros((len(self.past), len(self.sections) + 1))
            held = _kept(_out_of_fold)(self._features, self._owner, self.C, folds)
            self._folds[:, np.unique(self._owner)] = held
        place = {row["id"]: i for i, row in enumerate(self.past)}
        mine = [place[row["id"]] for row in rows]
        tickets = [self.past[i]["ticket"] for i in mine]
        return self._scores(self._folds[mine], tickets), self._folds[mine, -1]

    def scores_unseen(self, rows: list[dict]) -> np.ndarray:
        """The scores of ``unseen`` alone."""
        return self.unseen(rows)[0]

    def reindexed(self, sections: tuple[Section, ...]) -> Learned:
        """The same retriever over changed pages: only new texts are embedded, nothing is fitted again.

        Raises ValueError unless the pages have the same codes in the same order. Lesson 02, section 2.8.
        """
        if [s.policy for s in sections] != [s.policy for s in self.sections]:
            raise ValueError(
                "expected the same section codes in the same order; else build a new Learned"
            )
        other = copy(self)
        other.dense, other.sections, other._folds = Dense(sections), tuple(sections), None
        return other


def ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks 1, 2, ... along the last axis, 1 the best; ties in index order."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    out = np.empty_like(order)
    np.put_along_axis(out, order, np.arange(1, scores.shape[-1] + 1)[None, :], axis=-1)
    return out


def top_k(scores: np.ndarray, sections: tuple[Section, ...], k: int) -> list[list[Section]]:
    """The k best sections for each row of scores, best first."""
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    return [[sections[i] for i in row] for row in order]


def gold_ranks(scores: np.ndarray, rows: list[dict], sections: tuple[Section, ...]) -> np.ndarray:
    """The rank of the right section for each ticket (1 the best); KeyError for a row outside the handbook."""
    place = {section.policy: i for i, section in enumerate(sections)}
    gold = np.array([place[row["reply"]["policy"]] for row in rows])
    return ranks(scores)[np.arange(len(rows)), gold]


def recall_at_k(gold: np.ndarray, k: int) -> float:
    """Share of tickets whose right section is among the first k."""
    return float((np.asarray(gold) <= k).mean())


def mrr(gold: np.ndarray) -> float:
    """Mean reciprocal rank: the mean of 1 / rank (Voorhees 1999)."""
    return float((1.0 / np.asarray(gold)).mean())


@lru_cache(maxsize=1)
def default_retriever() -> Learned:
    """The retriever of lessons 02, 04 and 05: ``Learned`` over the handbook and the training tickets."""
    from helpers.data import tickets

    return Learned(handbook(), tickets("train"))
