"""The language of a text, as far as its script or its commonest words show it.

A script other than Latin is recognised by its letters. Among languages in Latin letters the words that every text has
(the, der, que) decide, if there are three different ones and half as many again as of any other language; otherwise the
language is unknown. Words that are also English (die, no, as) count only for English.
"""

from __future__ import annotations

import re

_WORDS = {
    "English": "the and of to is in that it you for with are this was have not be on as what",
    "German": "der die das und ist nicht ein eine zu den von mit auf für sich dem des im auch wie",
    "French": "le la les des est et une un que pour dans vous pas qui sur avec ce au du il",
    "Spanish": "el la los las que de y en un una es por con para se no del su como más",
    "Italian": "il di che è la per un una non sono con del della le si da gli come più questo",
    "Portuguese": "o a os as que de e não um uma para com em do da se no na por mais",
    "Dutch": "de het een en van is dat niet op te voor met zijn er aan die ik je maar ook",
    "Polish": "i w nie na się z do jest to że jak o co po od za ale by tak dla",
    "Swedish": "och att det i som en på är av för med till den har inte om ett han jag de",
    "Turkish": "ve bir bu için ile de da çok ne daha gibi var olarak ama kadar değil en o mi sonra",
}
_SCRIPTS = {
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "a language in Cyrillic letters": "\u0400-\u052f",
    "Hebrew": "\u0590-\u05ff",
    "a language in Arabic letters": "\u0600-\u06ff\u0750-\u077f",
    "a language of India": "\u0900-\u0dff",
    "Thai": "\u0e00-\u0e7f",
    "Japanese": "\u3040-\u30ff",
    "Korean": "\u1100-\u11ff\uac00-\ud7af",
    "Chinese": "\u3400-\u4dbf\u4e00-\u9fff",
}
LANGUAGES = ("", *_WORDS, *_SCRIPTS)
"""The names by number; 0 means unknown."""

_ENGLISH = "a as an am at be by die do for he had hat i in is it man me met no o of on op per se so to was we"
"""English words, including rare ones, that are common in other languages."""
_COMMON: dict[str, tuple[int, ...]] = {}
_ENGLISH_ALONE = frozenset(f"{_ENGLISH} {_WORDS['English']}".split())
for _number, (_name, _text) in enumerate(_WORDS.items()):
    for _word in _text.split():
        if _name == "English" or _word not in _ENGLISH_ALONE:
            _COMMON[_word] = (*_COMMON.get(_word, ()), _number)
_LETTERS = tuple(re.compile(f"[{ranges}]") for ranges in _SCRIPTS.values())
_LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_JAPANESE, _CHINESE = list(_SCRIPTS).index("Japanese"), list(_SCRIPTS).index("Chinese")
_SAMPLE_CHARS = 400
"""The number of characters of a text that are looked at."""
_FEWEST_WORDS, _LEAST_LEAD = 3, 1.5


def language_of(text: str) -> int:
    """The index in LANGUAGES of the language of a text's beginning; 0 if it is unknown."""
    start = text[:_SAMPLE_CHARS]
    if not start.isascii():
        counts = [len(letters.findall(start)) for letters in _LETTERS]
        most = max(counts)
        if most > len(_LATIN.findall(start)):
            # Japanese has Chinese characters among its own.
            found = _JAPANESE if counts[_JAPANESE] and counts[_CHINESE] == most else counts.index(most)
            return 1 + len(_WORDS) + found
    hits = [0] * len(_WORDS)
    for word in set(start.lower().split()):
        for number in _COMMON.get(word, ()):
            hits[number] += 1
    first, second = sorted(hits, reverse=True)[:2]
    return 1 + hits.index(first) if first >= _FEWEST_WORDS and first >= _LEAST_LEAD * second else 0
