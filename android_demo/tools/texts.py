"""Texts that a tokenizer must cut as the reference does: many languages and scripts, emoji, control characters."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

PHRASES = (
    "The train to the north leaves at 8:45.",
    "Où est la gare, s'il vous plaît ?",
    "Wie spät ist es? Schön, größer, Fuß!",
    "Perché no? Città, università, così.",
    "Não sei; amanhã de manhã, talvez.",
    "¿Qué hora es? ¡Mañana, niño!",
    "Ik weet het niet, mijn vriend.",
    "Vad är klockan? Åtta över åtta.",
    "Hvor går bussen? Blåbærgrød på øen.",
    "Missä on asema? Hyvää päivää!",
    "Hvað er klukkan? Þetta er gott.",
    "Dzień dobry, gdzie jest łódź?",
    "Dobrý den, příliš žluťoučký kůň.",
    "Dobré ráno, ľúbezný kôň.",
    "Dobro jutro, čaša žuči.",
    "Jó reggelt, árvíztűrő tükör.",
    "Bună dimineața, țară și oraș.",
    "Tere hommikust, õhtu jäääär.",
    "Labas rytas, ąžuolas žydi.",
    "Labrīt, šķērsiela.",
    "Günaydın, İstanbul'da ışık.",
    "Mirëmëngjes, çfarë bën?",
    "Bonġu, il-ħobż tajjeb.",
    "Maidin mhaith, tá sé fuar.",
    "Bore da, sut ydych chi?",
    "Egun on, non dago etxea?",
    "Bon dia, col·laboració.",
    "Chào buổi sáng, bạn khỏe không?",
    "Selamat pagi, apa kabar?",
    "Habari za asubuhi?",
    "Ẹ káàárọ̀, báwo ni?",
    "Sanibonani, ninjani?",
    "Καλημέρα, τι κάνεις;",
    "Доброе утро, как дела? Ёлка.",
    "Доброго ранку, як справи? Їжак.",
    "Добро утро, къде е гарата?",
    "Добро јутро, љубав и њива.",
    "Қайырлы таң, әлем!",
    "Բարի լույս, ինչպե՞ս ես։",
    "დილა მშვიდობისა, როგორ ხარ?",
    "صباح الخير، كيف حالك؟",
    "صبح بخیر، حال شما چطور است؟",
    "صبح بخیر، آپ کیسے ہیں؟",
    "בוקר טוב, מה שלומך?",
    "सुप्रभात, आप कैसे हैं?",
    "সুপ্রভাত, কেমন আছেন?",
    "ਸਤ ਸ੍ਰੀ ਅਕਾਲ, ਕੀ ਹਾਲ ਹੈ?",
    "સુપ્રભાત, કેમ છો?",
    "காலை வணக்கம், எப்படி இருக்கிறீர்கள்?",
    "శుభోదయం, ఎలా ఉన్నారు?",
    "ಶುಭೋದಯ, ಹೇಗಿದ್ದೀರಾ?",
    "സുപ്രഭാതം, സുഖമാണോ?",
    "සුබ උදෑසනක්, කොහොමද?",
    "สวัสดีตอนเช้า สบายดีไหม",
    "ສະບາຍດີຕອນເຊົ້າ",
    "မင်္ဂလာနံနက်ခင်းပါ",
    "អរុណសួស្តី",
    "早上好，你好吗？这里是车站。",
    "早安，你好嗎？這裡是車站。",
    "おはよう、元気ですか？駅はどこ。",
    "좋은 아침, 잘 지내요?",
    "እንደምን አደሩ?",
    "ཞོགས་པ་བདེ་ལེགས།",
    "ᐅᓪᓛᒃᑯᑦ",
    "𐌲𐌿𐍄𐌰𐌽𐌴",
    "𝔐𝔞𝔱𝔥: ∑ᵢ xᵢ² ≤ ∞, ℝ → ℂ",
)
"""A phrase of our own in each of some sixty languages."""

ODDITIES = (
    "",
    " ",
    "  ",
    "   a",
    "a   ",
    "\n",
    "\n\n",
    " \n ",
    "a\nb",
    "a\n\n\nb",
    "\na",
    "a\n",
    "\t",
    "a\tb",
    "\r\n",
    "a\r\nb",
    "\x00",
    "\x01\x02\x7f",
    "a\x00b",
    "\u200b",
    "\u200d",
    "\u200e\u202e",
    "\ufeff",
    "\u00a0",
    "\u3000",
    "\u2028\u2029",
    "▁",
    "▁▁a",
    "a▁b",
    "▁ ▁",
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "a<s>b",
    " <s> ",
    "<s>a",
    "é<s>",
    "_<s>",
    "\u0301<s>",
    "1<s>2",
    "-<s>-",
    "<s><s>",
    "<s></s><pad>",
    "<s",
    "<0x41>",
    "<0x0A>",
    "<0xFF>",
    "a<0xE2>b",
    "<0x4",
    "👍",
    "👍🏽",
    "👨\u200d👩\u200d👧",
    "🇫🇷🇩🇪",
    "🏳️\u200d🌈",
    "😀😃😄",
    "a👍b\n👍",
    "e\u0301\u0302",
    "ﬁ ﬂ",
    "Ǆ",
    "İi",
    "ß",
    "\ud7ff\ue000",
    "\U0010ffff",
    "\ufffd",
    "\ufffe",
    "x" * 300,
    "ab" * 200,
    " " * 50,
    "\n" * 20,
    "。" * 30,
    "http://a.b/c?d=e&f=%20#g",
    '{"a": [1, 2.5e-3, null]}',
    "if (x != 0) { y += x<<2; }",
    "C:\\a\\b",
    "1,234,567.89",
    "٣٤٥",
    "½ ¾ ²",
)
"""Texts that break careless tokenizers."""


def corpus(folder: Path) -> Iterator[str]:
    """Pieces of the evaluation texts: paragraphs, sentences, words, and every window of a few lengths."""
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        yield text
        yield from text.split("\n")
        for sentence in text.replace("\n", " ").split(". "):
            yield sentence
            yield f" {sentence}."
            yield sentence.upper()
            yield sentence[::-1]
        for width in (7, 40):
            yield from (text[start : start + width] for start in range(0, len(text) - width, 3 * width // 2))


def fixed_texts(folder: Path) -> list[str]:
    """At least 2,000 different texts, always the same."""
    chosen = [*PHRASES, *ODDITIES, *corpus(folder)]
    rng = random.Random(1)
    for phrase in PHRASES:
        for odd in rng.sample(ODDITIES, 6):
            chosen += [phrase + odd, f"{odd}{phrase}", f"{phrase}\n{odd} {rng.choice(PHRASES)}"]
        chosen += [phrase[:5], phrase.replace(" ", "\n"), f"  {phrase}  ", phrase + "🙂" + phrase]
    return list(dict.fromkeys(chosen))


def random_texts(count: int, seed: int) -> list[str]:
    """Texts of random pieces: letters, words, scripts, blanks, control characters, special tokens."""
    rng = random.Random(seed)
    words = " ".join(PHRASES).split()
    return ["".join(_piece(rng, words) for _ in range(rng.randint(0, 24))) for _ in range(count)]


def _piece(rng: random.Random, words: list[str]) -> str:
    match rng.randrange(10):
        case 0:
            return rng.choice(ODDITIES)[:12]
        case 1:
            return rng.choice("\n\n \t ")
        case 2:
            return chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))))
        case 3:
            return chr(rng.randrange(0x250))
        case 4 | 5:
            return "".join(rng.choice("etaoinshrdlu éèüß") for _ in range(rng.randint(1, 8)))
        case _:
            return rng.choice((" ", "")) + rng.choice(words)
