"""Splitting texts into sentences: every script, abbreviations, quotes, line ends, and texts that hold none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.summarization import sentences

# One case a line; a bar stands where a sentence ends.
ENGLISH = (
    """
It rained.| We left.
It rained!| We left?| We came back.
Wait... what?| No...| Really!
He asked why.| She knew.| Nobody else did.
Prices rose 3.5% to 1,234.56 in May.| They fell in June.
It cost $3.5bn.| It was worth it.
He has 5.| She has six.
Version 2.0 is out.| Version 3.1.4 follows.
See example.com for more.| Write to a.b@example.org today.
The file is called data.csv and it is large.| Open it.
Mr. Smith met Mrs. Jones and Ms. Brown.| They talked.
Dr. Who and Prof. X left.| St. Paul stayed.
Gen. Grant and Col. Mustard fought.| Capt. Ahab sailed.
Sen. Warren and Rep. Lee voted.| Gov. Hill did not.
Lt. Uhura reported.| Sgt. Pepper played.
Smith vs. Jones was decided.| It took years.
Use a tool, e.g. Python, for it.| It is easy.
The rest, i.e. Tuesday, is free.| Come then.
See No. 5 for details.| It is short.
Figures are in fig. 3 and on pp. 12 to 14.| Look there.
It began on Jan. 5 and ended on Dec. 24.| It was cold.
He said no.| She said yes.
Nobody said no.| Everybody left.
J. K. Rowling wrote it.| J. Smith read it.
George W. Bush spoke.| He was brief.
The plan B. The plan C.
It was I.| He said so.
I like apples, pears, etc.| They are good.
Acme Inc. sued Bolt Ltd. over it.| It lost.
He joined Acme Inc.| The firm grew.
The U.S. Army came.| It left in May.
It was made in the U.S.| The rest was not.
He lives in Washington D.C.| She does not.
At 5 p.m. Tuesday it closed.| It reopened.
It closes at 5 p.m.| The bank opens at 9 a.m.| Then it closes.
He holds a Ph.D. in law.| It helps.
Martin Luther King Jr. spoke.| Many listened.
"It is over."| Then she left.
"Really?" asked Ann.| Bob nodded.
"Stop!" he cried.| "Go on," she said.
She said: "It is over."| He left.
“It is over.”| Then she left.
‘It is over.’| Then she left.
(It rained.)| We left.
It rained (a lot).| We left.
[It rained.]| We left.
He left.| (She did not.)
He left.| "She did not."
He left.| “She did not.”
It rained - twice.| We left.
It rained;| we left.
No mark at all
Who?| What?!| When!?
It is what it is.| 7 people came.| 12 left.
The iPhone is old.| Apple said so.
He lives on 5th Ave. near the park.| It is loud.
""".replace(";|", ";")
    .replace("The plan B. The plan C.", "The plan B.| The plan C.")
    .split("\n")
)

OTHERS = """
今天下雨。|我们走了。
今天下雨！|真的吗？|是的。
他说：“你好。”|然后走了。
他说：“你好”，然后走了。
“真的吗？”|她问。
天气很好……|他走了。
价格涨了3.5%。|后来跌了。
（下雨了。）|我们走了。
他来了!|她走了?|是的。
《红楼梦》很长。|我读过。
今日はいい天気です。|散歩しました。
「はい。」と言った。|次の日も来た。
彼は「行きます！」と言った。|そして行った。
え？！|本当？
안녕하세요.| 반갑습니다.
오늘은 비가 옵니다.| 내일은요?| 모릅니다.
كيف حالك؟| أنا بخير.| شكرا.
یہ ایک جملہ ہے۔| یہ دوسرا ہے۔
यह एक वाक्य है।| यह दूसरा है।
Это предложение.| Это другое!| А это?
Г-н Иванов ушёл.| Он вернулся.
Das ist ein Satz.| Hier ist noch einer.
Er sagte: „Es ist vorbei.“ und ging.
C'est une phrase.| En voici une autre.
« C'est fini. »
¿Qué tal?| ¡Muy bien!| Gracias.
Είναι μια πρόταση.| Να άλλη μία.
זה משפט.| זה עוד אחד.
Isto é uma frase.| Isto é outra.
นี่คือประโยค
""".split("\n")  # noqa: SIM905

LINES = [
    ("A title\n\nOne line.\nAnother line", ["A title", "One line.", "Another line"]),
    ("A title\r\n\r\nOne line.", ["A title", "One line."]),
    ("One line.\rAnother line.", ["One line.", "Another line."]),
    ("One.\n \t\nTwo.", ["One.", "Two."]),
    (
        "Wrapped at\nsome column and\nends. Then it\r\ngoes on.",
        ["Wrapped at some column and ends.", "Then it goes on."],
    ),
    ("- first\n- second", ["- first", "- second"]),
    ("1. first\n2. second", ["1. first", "2. second"]),
    ("Items:\n• one\n• two", ["Items:", "• one", "• two"]),
    ("One.\u2029Two.", ["One.", "Two."]),
    ("  One.   Two.  ", ["One.", "Two."]),
    ("央行降息\n\n今天，央行降息。", ["央行降息", "今天，央行降息。"]),
    ("第一行\n第二行", ["第一行", "第二行"]),
]


@pytest.mark.parametrize("case", [line for line in (*ENGLISH, *OTHERS) if line.strip()])
def test_sentences(case):
    expected = [part.strip() for part in case.split("|")]
    assert sentences(case.replace("|", "")) == expected


@pytest.mark.parametrize(("text", "wanted"), LINES)
def test_lines(text, wanted):
    assert sentences(text) == wanted


@pytest.mark.parametrize("text", ["", " ", "\n\n \n", "\u3000", "\r\n"])
def test_nothing_holds_no_sentence(text):
    assert sentences(text) == []


@pytest.mark.parametrize("text", [".", "...", "。", "?!", '"', "- ", "1.", "Mr.", "e.g."])
def test_marks_alone_are_one_sentence(text):
    assert sentences(text) == [text.strip()]


ALPHABET = st.sampled_from([*"ab AB.!?…\"'”()-;,:\n\r\t5。！？“”「」と你", "Mr. ", "U.S. ", "... ", "\n\n"])


@given(st.lists(ALPHABET, max_size=40).map("".join))
def test_nothing_is_lost_added_or_moved(text):
    """Joined without white space the sentences are the text without white space."""
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@given(st.lists(ALPHABET, max_size=40).map("".join))
def test_sentences_are_trimmed_and_never_empty(text):
    result = sentences(text)
    assert all(item and item == item.strip() for item in result)
    assert all("\n" not in item for item in result)


@given(st.lists(ALPHABET, max_size=30).map("".join), st.lists(ALPHABET, max_size=30).map("".join))
def test_paragraphs_are_split_apart(first, second):
    """What stands before a blank line has no say in what comes after it."""
    assert sentences(f"{first}\n\n{second}") == sentences(first) + sentences(second)


@pytest.mark.parametrize(
    "unit", [".", "Ab. ", "a. ", '."', "\n \n x", "。", "x", " ", "A", "Mr. ", "5. ", "“", "?\u201d"]
)
def test_a_megabyte_of_anything_ends(unit):
    text = unit * (1_000_000 // len(unit))
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
