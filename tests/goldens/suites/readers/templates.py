"""The pool of replies: written forms, forms drawn from pieces, and what a model wrote. For `make.py`."""

import random
import re

PLACEHOLDER = re.compile(r"\{(g|gl|G|Gl|Gu|Gh|w|wl|W|Wl|m|s|M|S|q|o[0-4])\}")


def fill(template: str, item: dict) -> str:
    """A template as a reply to an item. `readers/golden_tests.rs` does the same."""
    options, gold = item["options"], item["gold"]
    if len(gold) == 1 and gold.isupper():
        right = ord(gold) - ord("A")
        wrong = (right + 1) % len(options)
        g, G, w, W = gold, options[right], chr(ord("A") + wrong), options[wrong]
    else:
        g = G = gold
        w = W = next(option for option in options if option != gold)
    mark = lambda line: line.split(": ")[0]
    sentence = lambda line: (line.split(": ") + [line])[1]
    values = dict(g=g, gl=g.lower(), G=G, Gl=G.lower(), Gu=G.upper(), Gh=G[: (len(G) + 1) // 2], w=w, wl=w.lower(), W=W)
    values |= dict(Wl=W.lower(), m=mark(G), s=sentence(G), M=mark(W), S=sentence(W), q=item["question"])
    values |= {f"o{k}": options[k % len(options)] for k in range(5)}
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


LETTERS = ["{g}", "{w}", "{gl}", "A"]
AROUND_A_LETTER = """
L|L.|(L)|L)|(L|[L]|L:|L,|L;|L!|**L**|**L.**|**(L)**|`L`|"L"|'L'|“L”|‘L’|「L」|（L）|L。|L．|(L).|((L))|L..|.L|-L|_L_|#L|L?|{L}|<L>
 L| L |L\\n|\\tL\\t|\\u00a0L|\\u3000L\\u3000|\\x1cL|L\\x85|\\u200bL|\\ufeffL|L\\nL|L\\r\\n|\\n\\nL.
L {G}|L. {G}|(L) {G}|L) {G}|L: {G}|L, {G}|L - {G}|L.{G}|L.\\n{G}|L. \\n\\n {G}|L. {G}\\nbecause it is so|L {W}|L. {W}|(L) {W}
Option L|option L.|Option (L)|Choice L|Letter L|OptionL|The answer is L|The answer is L.|The answer is (L)|The answer is (L).|The answer is: L
The answer is **L**|The answer is *L*.|The answer  is\\nL|the answer is L|THE ANSWER IS L|The answer L|The correct answer is L|The correct answer is L: {G}
The correct answer is option L|The best answer is L|The best answer is: L.|The best option is L|The best option is (L) {G}|The correct option is L|the correct choice is L
Best answer: L|Best answer:L|Best option: L|Best option:(L)|Answer: L|answer: L|ANSWER: L|Answer:L|Option: L|Final Answer: L|Final answer - L|A: L|Q: {q} A: L
I choose L|I select L|I pick option L.|My answer is L|My choice is L|So it is L|So it must be (L).|I think it is L because {G}|I'd go with L!|It's L, not {w}
Not {w}, but L|{w}? No, L.|{w}. No wait, L.|({w}) or (L)|L or {w}|L and {w}|L, {w}|L/{w}|L{w}|L. {w}.|(L)({w})|{w} L|{w}) L)|{w}: L:|L. {G} {w}. {W}|({w}) {W} (L) {G}
First {w}, then L, then {w}, so the answer is L|The answer is L, not {w}|The answer is not {w} but L|Both L and {w} are right, L more so|Between {w} and L the better is L
答案是L|答案是 L。|答案为L|选L|选 L 。|我选择L选项|正确答案：L|정답은 L입니다|정답은 L|답: L|옵션 L|답은(L)|答えはLです|答えは L 。|الإجابة هي L|الجواب: (L)|Ответ: L|Правильный ответ L.|Antwort: L|La réponse est L
<answer>L</answer>|\\boxed{L}|$L$|```L```|# L|## Answer\\nL|- L|* L|1. L|> L|| L ||"answer": "L"|{"answer": "L"}|Answer: "L"|L\\n\\nExplanation: {G}|<think>{w}</think>L
""".strip("\n")

PLAIN = """
| |\\n|  \\t |.|...|…|(|)|()|(.|,|;|!|?|-|--|—|_|*|**|#|"|'|“|”|/|\\|0|1|12|3.5|1,000|1,000.5|2,3|42.|.5|٣|٣,٤|²|Ⅷ|½|一|nan|None|null|N/A|E|E.|(E)|(E|E)|E: {G}|The answer is E|The answer is (E).|Best option: E|Z|Z.|(Z)|F|(F)|F.|G|H|z|f
a|b|c|d|e|a.|b.|c)|(d)|(e|a person|b and c|e.g. this|i.e. that|c'est la vie|d'accord|x a x|vitamin c|plan b|grade-a|a/b|a_b|a-b|A-|B-roll|C++|C#|D-day|E=mc|e-mail|E.T. phones home|A.M.|a.m.
A person opens the door.|A person is cooking in the kitchen.|A man|A|A dog runs, a cat sleeps.|There is a dog in the video|It is a cat.|An apple|An A|This is a test|The A team|A. A person|A B-movie about C
Because it moves|Before that, nothing|Both|Clearly not|Cars drive by|Dogs bark|Did it move?|Every time|Either way|Even so, B|Each of them|All of the above|None of the above|Nothing happens
ABCDE|ABCD|A B C D E|A, B, C, D, E|A. B. C. D.|(A) (B) (C) (D) (E)|E D C B A|(E) (D) (C) (B) (A)|A) B) C)|A: B: C:|AA|BBB|A A|B. B.|(C) (C)|(A) or (A)|DNA is shown|VISA CARD HERE|NASA and ESA say so|USA |A1|1A|B2 B|CD or DVD|ＡＢＣ|Ａ|Ｂ．|（Ｃ）|ａ|Ⓐ|ⓑ|Ⓒ.|🅐|А|В|С|Е|ΑΒ|𝐀|𝗕|É|Á.|ÀB|BÉ|B̂|Ä B
{G}|{G}.|{Gl}|{Gu}|{Gh}|{W}|{Wl}| {G} |"{G}"|'{G}'|“{G}”|**{G}**|({G})|{G}\\n|{G}!|{G}\\n{W}|{G} {W}|{G}, not {W}|not {G}|{G} or {W}|{o0}{o1}{o2}|{o4}|{o3} and {o2}|{q}|{q} {G}|{G} {q}
The answer is {G}|The answer is {G}.|the correct answer is {Gl}|The answer is: "{G}".|Answer: {G}|It is {G}.|It's {Gl}|I think {G}|I think that the right answer is {Gl}|My answer is {G}|Best option: {G}|答案是{G}|Ответ: {G}|الإجابة {G}|선택: {G}
In the video you can see that {G}, as I said|The video shows clearly and without any doubt that {Gl} and then again {Wl}|We can see from the frames that {W} happens first and {G} happens at the very end|after all that was said here: {Gu} and nothing more than that
The person in the video is doing something that nobody can recognise here|it was the one that had been shown before the other one and not the other way round|in this video, the man walks to the door, opens it, looks around, walks back, sits down, stands up and leaves again
I'm sorry, but without the image provided I cannot say|Sorry, I can't help with images of people yet.|I can't process this file.|Cannot determine the answer|Failed to obtain answer via API.|Failed to obtain answer via API|I cannot answer. B|As an AI language model, I cannot watch videos.|I don't know|Unknown|undefined
Yes|yes|Yes.|yes.|YES|Yes!|Yes, it is.|yes, he is running|Yes, the man is running.|yes no|Yes and no|yes or no?|"Yes"|'yes'| yes|\\nyes|**Yes**|Yes\\n|yep|yeah|Yea|Y|y|yesterday|YesNo|Yes: {G}|The answer is yes.|Answer: yes|It is yes|oh yes|(yes)|ja|да|是|是的|نعم|はい|네|ｙｅｓ|Yeſ|İyes|YEŞ|yess
No|no|No.|no.|NO|No!|No, it is not.|no, he is walking|Nothing|not|Not at all|None|nobody knows|Now|North|noisy|"No"|'no'| no|\\nno|**No**|No\\n|nope|nah|N|n|The answer is no.|Answer: no|It is no|oh no|(no)|nein|нет|不|不是|لا|いいえ|아니요|ｎｏ|NÓ|No yes|Ｎo
{m}|{m}.|{m}:|{m}: |{m}: {s}|{m}: {S}|{M}|{M}.|{M}: {S}|{s}|{s}.|{S}|{m}) {s}|(1) {s}|A) {s}|x) {S}|{g}) {s}) {S}|{w}) {s}|1) {s}|{M}) {S}|{m}. {s}|{m} {s}|The right one is {m}|It is {m}.|{m}\\n|Caption {g}|Caption {g}.|Option {g}|Sentence {g}|Sentence {g}.|1|2|3|1.|2.|3.|(1)|(2)|1)|2)|Option 1|Option 2|Option 1.|option 2|Option 2:|Caption A|Caption B.|Sentence C|1 2|first|the second|Option 1: {s}|Sentence A: {s}|.{g}|{g}....|1.2|{G}{G}|.{m}
Correct|Incorrect|Correct.|Incorrect.|correct|incorrect|CORRECT|The prediction is Correct.|The prediction is Incorrect.|It is Correct, not Incorrect|Incorrect or Correct|Correct and Incorrect|Not Correct|This is wrong| Correct| Incorrect|"Correct"|**Incorrect**|InCorrect|CorrectIncorrect
Reasoning: it is shown.\\nAnswer: {g}. {G}|Reasoning: it is shown.\\nAnswer: {w}. {W}|Answer: {g}. {G}|Answer: {g}|Answer: {g}.|Answer: {g}. {G}. {w}. {W}|Answer:{g}. {G}|Answer {g}. {G}|answer: {g}. {G}|{g}. {G} is the Answer|Reasoning: The Answer: {w}. {W}|Answer: None of the choices are correct|None of the choices are correct|Answer: {w}. {W}\\nAnswer: {g}. {G}|Answer: {g}. {G}\\nAnswer: {w}. {W}|  Answer: {g}. {G}  |Answer: {g}. {G} (A.)|Answer: {g}. {G}\\nReasoning: because|{g}. {G}\\nand more|{g}. {G}|Answer: Answer: {g}. {G}|invalid_request_error|Answers: {g}. {G}|Answer:\\n{g}. {G}|Answer: ({g}) {G}|Answer: {g}) {G}|Answer: {g}.{G}|A.B.C.D.|Answer: {G}|Answer: {g}. A.|Answer: D. {g}.
""".strip("\n")

# Judges' dictionaries stand in a list of their own, as they hold bars and quotes.
SCORES = [
    "{'pred': 'yes', 'score': 4}", "{'pred': 'no', 'score': 0}", "{'pred': 'yes', 'score': 4.8}", '{"pred": "yes", "score": 5}',
    "{'pred': 'Yes', 'score': '3'}", "{'pred': 'NO', 'score': ' 2 '}", "{'pred': 'no', 'score': '2.5'}", "{'score': 3, 'pred': 'yes'}",
    "{'pred': 'maybe', 'score': 2}", "{'pred': 'partly yes', 'score': 3}", "{'pred': 'not sure', 'score': 1}", "{'pred': 'unknown', 'score': 1}",
    "{'pred': yes, 'score': 4}", "{'pred': 'yes', 'score': four}", "{'pred': 'yes'}", "{'score': 4}", "{}", "{'pred': True, 'score': 4}",
    "{'pred': 'yes', 'score': None}", "{'pred': 'yes', 'score': True}", "{'pred': 'yes', 'score': False}", "{'pred': 'yes', 'score': -1}",
    "{'pred': 'yes', 'score': +2}", "{'pred': 'yes', 'score': 05}", "{'pred': 'yes', 'score': 5.}", "{'pred': 'yes', 'score': .5}",
    "{'pred': 'yes', 'score': 1e0}", "{'pred': 'yes', 'score': 3,}", "{'pred': 'yes' 'score': 3}", "{'pred': 'yes', 'score': 3",
    "'pred': 'yes', 'score': 3}", "{{'pred': 'yes', 'score': 3}}", "Sure! {'pred': 'yes', 'score': 3}", "{'pred': 'yes', 'score': 3} I think.",
    "```python\n{'pred': 'no', 'score': 1}\n```", "{\n  'pred': 'no',\n  'score': 1\n}", " {'pred': 'no', 'score': 1}\n", "{'pred': \"it's yes\", 'score': 4}",
    "{'pred': 'it\\'s no', 'score': 1}", "{‘pred’: ‘yes’, ‘score’: 3}", "{'Pred': 'yes', 'score': 3}", "{'pred': 'yes', 'score': 3, 'why': 'it is {g}'}",
    "{'pred': 'yes', 'score': 3, 'n': 1}", "{'pred': 'no', 'pred': 'yes', 'score': 3}", "{'pred': 'yes', 'score': 3}{'pred': 'no', 'score': 1}",
    "{'pred': 'no', 'score': 1} {'x': 2}", "{'pred': '', 'score': 1}", "{'pred': 'да', 'score': 1}", "{'pred': 'YES', 'score': '+4'}", "{'pred': 'no', 'score': '1_0'}",
    "{1: 2, 'pred': 'no', 'score': 1}", "{'pred': 'no', 'score': 1.9999}", "{'pred':'no','score':1}", "{'pred' : 'no' , 'score' : 1}", "{'pred': 'yes\n', 'score': 1}",
    "{'pred': 'yes', 'score': 4/5}", "{'pred': 'yes', 'score': 4 out of 5}", "{'pred': 'yes', 'score': '4/5'}", "pred: yes, score: 4", "yes, 4", "{'pred', 'score'}",
    "['yes', 4]", "{'pred': None, 'score': 4}", "{'pred': 'y e s', 'score': 4}", "{'pred': 'know', 'score': 4}", "{'pred': 'eyes', 'score': 2}",
]

PIECES = (
    "{g} {g} {w} {gl} {G} {W} {Gl} A B C D E a b c d e A. B. C) (D) (E (A) B: C, D; E! **B** a. b) (c) F Z The the answer is Answer: answer: Best option: best The_answer "
    "correct option is: i_choose my_choice_is 答案是 选 정답은 答えは Ответ نعم person door. It's not or and 1 2,3 4.5 6. 7, ² ٣ Ⅷ _ - / \\ \" ' “ ” ( ) [ ] { } . , ; : ! ? … < > @ ` = + * # "
    "É İ ß ſ ı Σ ς ǰ Ⓐ é 一 Ａ ａ ﬁ Ω A\u0301 \u200b yes no Yes No Caption Option Sentence DNA "
).split(" ")
BLANKS = [" ", " ", " ", " ", "", "", "\n", "\t", "  ", "\u00a0", "\u3000", "\x1f", "\x0b", "\r\n", "\u2028"]


def drawn(count: int) -> list[str]:
    rng = random.Random(11)
    texts = []
    while len(texts) < count:
        length = rng.choice([1, 2, 2, 3, 3, 4, 5, 6, 8, 12])
        text = "".join(rng.choice(PIECES).replace("_", " ") + rng.choice(BLANKS if rng.random() < 0.5 else [" "]) for _ in range(length))
        texts.append(text if rng.random() < 0.5 else text.strip())
    return texts


def pool(real: list[str]) -> list[str]:
    """All templates, each once; a third of them real."""
    def forms(text: str) -> list[str]:
        plain = re.sub(r"\\(?:u([0-9a-f]{4})|x([0-9a-f]{2}))", lambda m: chr(int(m[1] or m[2], 16)), text)
        made = [form for line in plain.split("\n") for form in line.split("|")]
        return [form.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t") for form in made]

    written = []
    for form in forms(AROUND_A_LETTER):
        # An L that stands for the letter has no small letter beside it.
        written += [re.sub(r"(?<![A-Z])L(?![a-z])", letter, form) for letter in LETTERS]
    written += forms(PLAIN) + SCORES
    written += ["A. " * 40 + "{g}", "." * 40 + "B", "x." * 32 + "B", "x." * 33 + "B", "in 1,234 rooms-b", "the anſwer iſ b", "answer ıs d", "anſwer İS c",
        "İİ the answer is B nor CB at all", "İİİ the answer is {w} nor {g}{w} at all", "no. " * 20 + "b.", "x, " * 200 + "(C)", "{G} " * 60, "word " * 500 + "{g}", "a" * 3000, "The answer is " * 30 + "{w}"]
    written = list(dict.fromkeys(written))
    known = set(written)
    more = [text for text in dict.fromkeys(drawn(500)) if text not in known][:300]
    known.update(more)
    return written + more + [reply for reply in dict.fromkeys(real) if reply not in known]
