//! What judges say, as the harnesses read it.

use super::python::strip;

/// TempCompass's judge of matching (`llm_output_to_rating` in lmms-eval's
/// `tempcompass/utils.py`, c7eaef37): Correct or Incorrect at the start, else Incorrect anywhere,
/// else Correct anywhere. `None` where it says neither: lmms-eval asks up to ten times more and then
/// counts it wrong, VLMEvalKit counts it wrong at once.
pub fn verdict(judge_reply: &str) -> Option<bool> {
    if judge_reply.starts_with("Correct") {
        return Some(true);
    }
    match (judge_reply.contains("Incorrect"), judge_reply.contains("Correct")) {
        (true, _) => Some(false),
        (false, true) => Some(true),
        (false, false) => None,
    }
}

/// TempCompass's judge of captions, which answers the question from the caption
/// (`parse_llm_output_for_captioning`): what stands in the last line with "Answer", else the whole
/// reply, has the letter of `right` (`B. down`) before its first ". ", and exactly one of "A." to "D.".
/// `None` for an empty reply, which lmms-eval counts wrong and VLMEvalKit with -1.
pub fn captioning_verdict(right: &str, judge_reply: &str) -> Option<bool> {
    if judge_reply.is_empty() || judge_reply == "invalid_request_error" {
        return None;
    }
    let mut lines = judge_reply.split('\n').map(strip).filter(|line| line.contains("Answer"));
    let answer = lines.next_back().map(|line| line.replace("Answer:", ""));
    let answer = answer.as_deref().map_or(judge_reply, strip);
    let marks: usize = ["A.", "B.", "C.", "D."].iter().map(|m| answer.matches(m).count()).sum();
    Some(answer.split(". ").next() == right.split(". ").next() && marks == 1)
}

/// Video-ChatGPT's judge of open answers: a Python dictionary with `pred` and `score`, as in
/// `{'pred': 'yes', 'score': 4}`. Gives `yes` where the lower-cased `pred` holds yes, `no` where it
/// holds no, else `pred` itself (which counts as neither), and the score as Python's `int` makes it
/// (4.8 is 4). `None` where it is no such dictionary: Video-ChatGPT and SlowFast-LLaVA ask again,
/// lmms-eval's `parse_score` (`activitynetqa/utils.py`, c7eaef37) gives nothing, on which its caller
/// fails. Values other than strings, numbers, True, False and None are not known here.
pub fn yes_no_and_score(judge_reply: &str) -> Option<(String, i64)> {
    let mut literal = Literal { rest: judge_reply.trim_start_matches([' ', '\t']) };
    let (mut pred, mut score) = (None, None);
    literal.mark('{')?;
    while literal.mark('}').is_none() {
        let key = literal.value()?;
        literal.mark(':')?;
        let value = literal.value()?;
        match key {
            Value::Text(key) if key == "pred" => pred = Some(value),
            Value::Text(key) if key == "score" => score = Some(value),
            _ => {}
        }
        if literal.mark(',').is_none() {
            literal.mark('}')?;
            break;
        }
    }
    if !literal.rest.trim_start_matches(Literal::BLANKS).is_empty() {
        return None;
    }
    let score = match score? {
        Value::Number(number) => number.trunc() as i64,
        Value::Text(text) => whole_number(&text)?,
        Value::Nothing => return None,
    };
    let Value::Text(pred) = pred? else { return None };
    let lower = pred.to_lowercase();
    let said = ["yes", "no"].into_iter().find(|word| lower.contains(word));
    Some((said.map_or(pred, str::to_owned), score))
}

/// What lmms-eval cuts out of the judge's reply: what the first brace opens up to the next brace of
/// either kind, in braces.
pub fn braces(judge_reply: &str) -> Option<String> {
    let inner = judge_reply.split('{').nth(1)?.split('}').next()?;
    Some(format!("{{{inner}}}"))
}

/// Python's `int` of a text.
fn whole_number(text: &str) -> Option<i64> {
    let text = strip(text);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let grouped = digits
        .split('_')
        .all(|group| !group.is_empty() && group.chars().all(|c| c.is_ascii_digit()));
    grouped.then(|| text.replace('_', "").parse().ok()).flatten()
}

enum Value {
    Text(String),
    Number(f64),
    Nothing,
}

/// The part of Python's literals that judges write.
struct Literal<'a> {
    rest: &'a str,
}

impl Literal<'_> {
    const BLANKS: [char; 5] = [' ', '\t', '\n', '\r', '\x0c'];

    fn mark(&mut self, mark: char) -> Option<()> {
        self.rest = self.rest.trim_start_matches(Self::BLANKS).strip_prefix(mark)?;
        Some(())
    }

    fn value(&mut self) -> Option<Value> {
        self.rest = self.rest.trim_start_matches(Self::BLANKS);
        match self.rest.chars().next()? {
            quote @ ('\'' | '"') => self.text(quote).map(Value::Text),
            _ => {
                let end =
                    self.rest.find(|c: char| ",:}".contains(c) || Self::BLANKS.contains(&c))?;
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                match word {
                    "True" => Some(Value::Number(1.0)),
                    "False" => Some(Value::Number(0.0)),
                    "None" => Some(Value::Nothing),
                    _ => number(word).map(Value::Number),
                }
            }
        }
    }

    fn text(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\n' => return None,
                '\\' => match chars.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    mark @ ('\\' | '\'' | '"') => text.push(mark),
                    other => text.extend(['\\', other]),
                },
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                c => text.push(c),
            }
        }
        None
    }
}

/// A number without a base: digits, a point, an exponent, a sign before it. Python refuses a whole
/// number that starts with 0 and is not 0.
fn number(word: &str) -> Option<f64> {
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    let form = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let whole = digits.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = whole && digits.starts_with('0') && digits.bytes().any(|b| b != b'0');
    let value: f64 = digits.parse().ok().filter(|_| form && !leading_zero)?;
    Some(if word.starts_with('-') { -value } else { value }).filter(|value| value.is_finite())
}
