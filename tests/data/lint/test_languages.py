from __future__ import annotations

import pytest

from veneer.data.lint.languages import LANGUAGES, language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of France, and how do you get to it?", "English"),
        ("Der Hund und die Katze sind nicht im Garten.", "German"),
        ("Le chat est dans la maison et il ne dort pas.", "French"),
        ("El perro de la casa no es de los vecinos.", "Spanish"),
        ("Il cane non è nella casa e la gatta è con il padrone che dorme.", "Italian"),
        ("O gato não está em casa e o cão está com um amigo do vizinho.", "Portuguese"),
        ("De hond is niet in het huis en de kat is er ook niet.", "Dutch"),
        ("今日は天気が良いので散歩に行きます", "Japanese"),
        ("今天天气很好", "Chinese"),
        ("Сегодня хорошая погода", "a language in Cyrillic letters"),
        ("Σήμερα ο καιρός είναι καλός", "Greek"),
        ("card_arrival", ""), ("42", ""), ("", ""), ("Paris, Lyon, Nice", ""),
    ],
)  # fmt: skip
def test_languages_are_told_by_script_and_common_words(text: str, language: str) -> None:
    assert LANGUAGES[language_of(text)] == language


def test_english_words_that_are_common_elsewhere_say_nothing() -> None:
    """Seen on arithmetic: `as`, `do` and `no` are among the commonest words of Portuguese."""
    text = "As he has no car, he can do so by bus. As no one can do it, no no as do as."
    assert LANGUAGES[language_of(text)] in ("", "English")
