"""The rung below every model: keywords for each handbook section, and a sentence quoted from it, or its page pasted.

Introduced in lesson 00, section 0.7. Written by hand from the handbook and a look at training tickets, in the
time that a shop would give it. A model that does not beat this page is not worth its memory.
"""

from __future__ import annotations

import re

from helpers.data import MAX_WORDS, PRODUCTS, SIGN_OFF, dumps, policies, priority_of

# Each word or phrase that occurs adds one point to its section; the section with most points wins.
KEYWORDS = {
    "RET-1": r"web ?shop|website|online|internet|send (it )?back|return|kilomet|ridden",
    "RET-2": r"in (your|the) (store|shop)|counter|receipt|bring (it )?back|return|handling|bought at",
    "RET-3": r"helmet|bag|lock|jacket|clothing|gloves|return|unused|seal|packing",
    "RET-4": r"compan|fleet|business|return|restock|our firm|office|hotel|courier service",
    "RET-5": r"refund|money back|my money|shipping cost|postage|returned|still waiting|sent (it )?back",
    "RET-6": r"exchange|swap|too (big|small|large)|another size|frame|wrong size|fit",
    "RET-7": r"bike box|box|carton|pick(ed)? ?up|collect|courier|return",
    "DEL-1": r"standard|normal delivery|how long|deliver|arrive|van|kerb|ordered",
    "DEL-2": r"express|fast|quick|hurry|deliver|before what time|tomorrow|urgent",
    "DEL-3": r"accessor|part|parcel|small|shipping|free shipping|postage|bell|pedal",
    "DEL-4": r"abroad|austria|belgium|denmark|france|countries|country|foreign|deliver",
    "DEL-5": r"transport|dent|box|damaged|scratch|carrier|arrived|photo",
    "DEL-6": r"lost|tracking|late|missing|never arrived|parcel|not moved",
    "DEL-7": r"nobody|not (at )?home|missed|depot|driver|attempt|at work",
    "WAR-1": r"frame|fork|crack|broke|guarantee|warranty|register",
    "WAR-2": r"motor|electronics|guarantee|warranty|engine|noise",
    "WAR-3": r"battery|guarantee|warranty|cycles|capacity|weak",
    "WAR-4": r"chain|brake pad|tyre|tire|grip|cable|worn|wear|covered",
    "WAR-5": r"paint|rust|scratch|flak|pen|covered",
    "WAR-6": r"second.?hand|used|private|previous owner|transfer|sold|guarantee|warranty",
    "WAR-7": r"courier|race|racing|business|commercial|jump|guarantee|warranty",
    "BAT-1": r"charg|charger|full|how long|fast charger|hours",
    "BAT-2": r"range|how far|eco|turbo|one charge|kilomet",
    "BAT-3": r"winter|stor|cellar|cold|battery|months",
    "BAT-4": r"not charge|won'?t charge|dead|reset|blink|switch on|battery",
    "BAT-5": r"spare|replacement|second|new battery|old one|battery|cost",
    "BAT-6": r"plane|fly|flight|airline|train|post|battery|label",
    "BAT-7": r"recycl|old battery|dispose|throw|waste|get rid",
    "REP-1": r"first service|first (check|inspection)|new bike|bolts|service",
    "REP-2": r"yearly|annual|service|price|once a year|inspection",
    "REP-3": r"flat|puncture|tube|nail|hole|tyre|glass",
    "REP-4": r"quote|estimate|repair|how long|before you start|ask me",
    "REP-5": r"mobile|mechanic|come to|at home|my door|call.?out|visit",
    "REP-6": r"loan|replacement bike|courtesy|meanwhile|repair|deposit",
    "REP-7": r"collect|ready|finished|storage|pick up|repaired|workshop",
    "PAY-1": r"cash|card|paypal|transfer|pay|notes",
    "PAY-2": r"instalment|installment|monthly|credit check|interest|rates|spread|pay",
    "PAY-3": r"twice|double|wrong amount|charged|too much|statement",
    "PAY-4": r"declined|refused|card|locked|rejected|payment",
    "PAY-5": r"invoice|bill|copy|tax|download|address|name",
    "PAY-6": r"gift|voucher|card|balance|valid",
    "PAY-7": r"lease|leasing|employer|boss|company|buy it",
    "ORD-1": r"change|colour|color|address|size|order|typed",
    "ORD-2": r"cancel|order|not shipped|changed my mind|custom",
    "ORD-3": r"reserve|reservation|reserving|hold|put aside|store|deposit",
    "ORD-4": r"pre-?order|waiting list|sold out|delay|withdraw|promised",
    "ORD-5": r"size|tall|cm|height|small|medium|large|frame",
    "ORD-6": r"custom|own colour|special|paint|build|drawing",
    "REN-1": r"test ride|try|trial|test|id|old",
    "REN-2": r"rent|hire|day|weekend|deposit|normal bike",
    "REN-3": r"cargo|rent|hire|children|kids|deposit|box",
    "REN-4": r"cancel|rent|booking|rain|hire|call off",
    "REN-5": r"late|bring back|return|rent|hire|evening|hour",
    "REN-6": r"broke|breakdown|damage|rental|rent|hire|stuck",
    "ACC-1": r"password|login|log in|locked out|link|reset",
    "ACC-2": r"delete|data|account|privacy|erase|invoice",
    "ACC-3": r"pair|app|bluetooth|connect|phone|light button",
    "ACC-4": r"tracker|gps|subscription|month|cancel",
    "ACC-5": r"stolen|theft|thief|police|gone|nicked",
    "ACC-6": r"key|lost|lock|card|replacement key",
    "SAF-1": r"swollen|smok|hot|burn|battery|fire",
    "SAF-2": r"brake|fail|stop|lever|fade",
    "SAF-3": r"crash|accident|fell|hit|car|inspect",
    "SAF-4": r"recall|fork|FK|number|crack",
    "SAF-5": r"weight|heavy|load|child seat|kg|carry",
    "SAF-6": r"tun|speed|faster|limit|km/h|chip",
}
_PATTERNS = {policy: re.compile(rf"\b(?:{words})", re.I) for policy, words in KEYWORDS.items()}
_COST = re.compile(r"cost|price|how much|fee|charge|pay|money|free", re.I)
_TIME = re.compile(
    r"how long|when|how many (?:days|weeks|months|years)|until|deadline|how soon|time", re.I
)


def find_product(ticket: str) -> str:
    """The product that the ticket names, spaces and case aside, or "none"."""
    flat = ticket.lower().replace(" ", "")
    return next((p for p in PRODUCTS[:-1] if p.lower().replace(" ", "") in flat), "none")


def find_policy(ticket: str) -> str:
    """The section with the most different keywords in the ticket, or "none" with fewer than two."""
    hits = {
        policy: len({m[0].lower() for m in p.finditer(ticket)}) for policy, p in _PATTERNS.items()
    }
    best = max(hits, key=hits.get)
    return best if hits[best] >= 2 else "none"


def _sentences(policy: str, ticket: str) -> tuple[str, list[str]]:
    """The sentence of a section that fits the question (one with a price, one with a time, else the first), and the others."""
    sentences = re.split(r"(?<=[.;]) +", policies()[policy].text)
    wants = None
    if _COST.search(ticket):
        wants = r"EUR|%|free|no cost"
    elif _TIME.search(ticket):
        wants = r"day|week|month|year|hour|minute|:"
    fits = next((s for s in sentences if wants and re.search(wants, s)), sentences[0])
    return fits, [s for s in sentences if s is not fits]


def quote(policy: str, ticket: str) -> str:
    """The sentence of a section that fits the question, as long as a house reply may be."""
    return " ".join(_sentences(policy, ticket)[0].rstrip(";").split()[:MAX_WORDS])


def paste(policy: str, ticket: str) -> str:
    """The sentence that fits the question, then the rest of its section, as long as a house reply may be (lesson 02, section 2.10)."""
    fits, others = _sentences(policy, ticket)
    return " ".join(" ".join([fits, *others]).split()[:MAX_WORDS])


def house_reply(policy: str, ticket: str, say=quote) -> str:
    """The house reply for a ticket once its section is known, without any model; ``say(policy, ticket)`` picks its words."""
    section = policies().get(policy)
    if section is None:
        text, intent = "A colleague will look into this and write back to you.", "other"
    else:
        text, intent = say(policy, ticket), section.intent
    labels = {"policy": policy, "intent": intent, "priority": priority_of(policy)}
    return dumps({**labels, "product": find_product(ticket), "reply": text + SIGN_OFF})


def keyword_rule(ticket: str) -> str:
    """The house reply by keywords alone."""
    return house_reply(find_policy(ticket), ticket)
