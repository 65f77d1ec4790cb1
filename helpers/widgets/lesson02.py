"""Lesson 02: the retrieval explorer, a face on ``search``."""

from __future__ import annotations

import html

import numpy as np

from helpers import data, methods
from helpers.widgets.base import Panel, table


def search(query: str, retriever, k: int = 3) -> dict:
    """The k best sections for a query with their scores, and the user's turn that results (section 2.6).

    ``found`` is a list of rows, best first; ``nothing`` is the retriever's probability that no section answers, or None
    for a retriever that has none. Raises ValueError for an empty query.
    """
    if not query.strip():
        raise ValueError("the query is empty; type a customer's question")
    scores = retriever.scores([query])[0]
    order = np.argsort(-scores, kind="stable")[:k]
    found = [
        {
            "rank": rank,
            "score": round(float(scores[i]), 4),
            "policy": retriever.sections[i].policy,
            "title": retriever.sections[i].title,
            "text": retriever.sections[i].text,
        }
        for rank, i in enumerate(order, 1)
    ]
    knows = hasattr(retriever, "p_nothing")
    context = methods.contexts([{"ticket": query}], k, retriever)[0]
    return {
        "found": found,
        "nothing": float(retriever.p_nothing([query])[0]) if knows else None,
        "prompt": data.user_turn(query, context),
    }


def retrieval_explorer(retrievers, query: str) -> Panel:
    """Search the handbook by any of the retrievers (each has a ``name``), starting with a query."""
    import ipywidgets

    by_name = {retriever.name: retriever for retriever in retrievers}

    def show(query: str, method: str, k: int) -> str:
        result = search(query, by_name[method], k)
        parts = [table(result["found"], f"Best {k} by {method}")]
        if result["nothing"] is not None:
            limit = by_name[method].threshold
            verdict = "above" if result["nothing"] > limit else "not above"
            parts.append(
                f"<p>No section answers: probability {result['nothing']:.2f}, {verdict} the "
                f"threshold of {limit}.</p>"
            )
        return "".join(parts) + f"<p>The prompt:</p><pre>{html.escape(result['prompt'])}</pre>"

    controls = {
        "query": ipywidgets.Textarea(
            query,
            description="Query:",
            rows=3,
            continuous_update=False,
            layout=ipywidgets.Layout(width="95%"),
        ),
        "method": ipywidgets.Dropdown(options=list(by_name), description="Method:"),
        "k": ipywidgets.BoundedIntText(
            3, min=1, max=10, description="k sections:", layout=ipywidgets.Layout(width="11em")
        ),
    }
    return Panel("Retrieval explorer", controls, show)
