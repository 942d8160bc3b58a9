//! Answers of mathematics: found in a text, brought to one form, and compared exactly.
//!
//! Numbers are whole, decimal, with separators of thousands, fractions (`3/4`, `\frac{3}{4}`, `1\frac{1}{2}`) and
//! percentages, bare or in LaTeX, with a unit after them or a letter before (`x = 7`). Anything else is a text, and two
//! texts are the same where their signs are. Sets, intervals and expressions are compared as texts, not solved.

use std::sync::LazyLock;

use fancy_regex::{Captures, Regex};
use serde::{Deserialize, Serialize};

/// Where in a text its answer is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Find {
    /// In the last `\boxed{}`; without one, after the last mark; without one, the last number.
    #[default]
    Auto,
    /// In the last `\boxed{}`.
    Boxed,
    /// After the last of `####`, `the answer is`, `answer:` and their like, on the same line.
    Marked,
    /// The last number.
    Last,
}

/// An answer in one form.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    number: Option<Number>,
    /// The signs, without spaces and in lower case.
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Number {
    /// In lowest terms, the denominator above 0.
    numerator: i128,
    denominator: i128,
    /// Digits behind the point, as they were written.
    decimals: usize,
    percent: bool,
}

impl Answer {
    /// Finds the answer of a text.
    pub fn find(text: &str, find: Find) -> Option<Self> {
        match find {
            Find::Boxed => boxed(text).map(Self::read),
            Find::Marked => marked(text),
            Find::Last => last(text),
            Find::Auto => {
                boxed(text).map(Self::read).or_else(|| marked(text)).or_else(|| last(text))
            }
        }
    }

    /// Reads a known answer: all of the text where it is a number as a whole, else what is found in it, else the text.
    pub fn known(text: &str) -> Self {
        let whole = Self::read(text);
        if whole.number.is_some() {
            return whole;
        }
        boxed(text).map(Self::read).or_else(|| marked(text)).unwrap_or(whole)
    }

    /// Whether it is a number.
    pub fn is_number(&self) -> bool {
        self.number.is_some()
    }

    /// Its signs, without spaces and in lower case.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether two answers are the same. A percentage is its hundredth, and the number before the sign too.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.number, &other.number) {
            (Some(a), Some(b)) => a.is_same(b),
            (None, None) => !self.text.is_empty() && self.text == other.text,
            _ => false,
        }
    }

    /// An expression as a whole.
    fn read(text: &str) -> Self {
        let plain = plain(text);
        let number = whole_number(&plain);
        let text = plain.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase();
        Self { number, text }
    }
}

impl Number {
    fn new(numerator: i128, denominator: i128, decimals: usize) -> Option<Self> {
        if denominator == 0 {
            return None;
        }
        let common = gcd(numerator.unsigned_abs(), denominator.unsigned_abs()) as i128;
        let sign = denominator.signum();
        let (numerator, denominator) = (sign * numerator / common, sign * denominator / common);
        Some(Self { numerator, denominator, decimals, percent: false })
    }

    fn is_same(&self, other: &Self) -> bool {
        let ways = |number: &Self| {
            let hundredth = || {
                let denominator = number.denominator.checked_mul(100)?;
                Self::new(number.numerator, denominator, number.decimals + 2)
            };
            let plain = Self { percent: false, ..*number };
            [Some(plain), number.percent.then(hundredth).flatten()]
        };
        let (these, those) = (ways(self), ways(other));
        these.iter().flatten().any(|a| those.iter().flatten().any(|b| a.equals(b)))
    }

    /// Exactly; a fraction that no decimal is equal to, as far as six digits or more say it.
    fn equals(&self, other: &Self) -> bool {
        if (self.numerator, self.denominator) == (other.numerator, other.denominator) {
            return true;
        }
        let digits = self.decimals.max(other.decimals);
        let endless = |number: &Self| number.decimals == 0 && number.denominator != 1;
        if digits < 6 || !(endless(self) || endless(other)) {
            return false;
        }
        let value = |number: &Self| number.numerator as f64 / number.denominator as f64;
        (value(self) - value(other)).abs() <= 5e-7
    }
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

/// Digits, with a point and separators of thousands.
const DIGITS: &str = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)";

static NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let frac = r"\\frac\{\s*(?P<top>-?DIGITS)\s*\}\{\s*(?P<bottom>-?DIGITS)\s*\}";
    let slash = r"(?P<over>DIGITS)\s*/\s*(?P<under>DIGITS)";
    let sign = r"(?P<sign>[-+]\s?)?";
    let pattern =
        format!(r"{sign}(?:(?P<whole>\d+)?{frac}|{slash}|(?P<plain>DIGITS))(?P<percent>\s?\\?%)?");
    Regex::new(&pattern.replace("DIGITS", DIGITS)).ok()
});

static MARK: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let words = r"(?i)####|\b(?:final\s+)?answer(?:\*\*)?\s*(?:is\b|:|=)\s*:?";
    Regex::new(words).ok()
});

/// Units and words behind a number, and a letter that it is equal to.
static AROUND: LazyLock<Option<[Regex; 2]>> = LazyLock::new(|| {
    let after = Regex::new(r"^\s*(?:[\p{Alphabetic}][\p{Alphabetic}\s.\-]*(?:\^?\{?[23]\}?)?)?$");
    let before = Regex::new(r"^[\p{Alphabetic}\s]*(?:=|\\approx|≈)\s*$");
    Some([after.ok()?, before.ok()?])
});

/// An expression without what LaTeX and Markdown put around it.
fn plain(text: &str) -> String {
    let mut text = text.replace('\u{2212}', "-").replace("{,}", ",");
    for (from, to) in [
        ("\\dfrac", "\\frac"),
        ("\\tfrac", "\\frac"),
        ("\\cfrac", "\\frac"),
        ("\\left", ""),
        ("\\right", ""),
        ("\\!", ""),
        ("\\,", " "),
        ("\\;", " "),
        ("\\:", " "),
        ("~", " "),
        ("\\(", " "),
        ("\\)", " "),
        ("\\[", " "),
        ("\\]", " "),
        ("\\$", ""),
        ("$", ""),
        ("€", ""),
        ("£", ""),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("°", ""),
        ("**", ""),
        ("`", ""),
    ] {
        text = text.replace(from, to);
    }
    for command in ["\\text", "\\mathrm", "\\textbf", "\\mathbf", "\\mbox"] {
        while let Some(at) = text.find(&format!("{command}{{")) {
            let open = at + command.len();
            let Some(inner) = braced(&text[open..]) else { break };
            let (inner, end) = (format!(" {inner} "), open + inner.len() + 2);
            text.replace_range(at..end, &inner);
        }
    }
    text = short_fractions(&text);
    text.trim().trim_end_matches(['.', ',', ';', ':', '!']).trim().to_owned()
}

/// `\frac12` as `\frac{1}{2}`.
fn short_fractions(text: &str) -> String {
    static SHORT: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\\frac\s*(\d|\{[^{}]*\})\s*(\d|\{[^{}]*\})").ok());
    let Some(short) = &*SHORT else { return text.to_owned() };
    let bare = |part: &str| part.trim_matches(['{', '}']).to_owned();
    let whole =
        |found: &Captures<'_>| format!("\\frac{{{}}}{{{}}}", bare(&found[1]), bare(&found[2]));
    short.replace_all(text, whole).into_owned()
}

/// What stands in the braces with which a text begins.
fn braced(text: &str) -> Option<&str> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (at > 0).then(|| &text[1..at]);
        }
    }
    None
}

/// What stands in the last box.
fn boxed(text: &str) -> Option<&str> {
    let starts = text.rmatch_indices("\\boxed").chain(text.rmatch_indices("\\fbox"));
    let (at, command) = starts.max_by_key(|(at, _)| *at)?;
    braced(text[at + command.len()..].trim_start())
}

/// What stands after the last mark, as far as its line goes: a number where it has one, the first.
fn marked(text: &str) -> Option<Answer> {
    let mark = MARK.as_ref()?.find_iter(text).filter_map(Result::ok).last()?;
    let line = text[mark.end()..].trim_start().lines().next().unwrap_or_default();
    let whole = Answer::read(line);
    if whole.number.is_some() {
        return Some(whole);
    }
    let plain = plain(line);
    let first =
        NUMBER.as_ref()?.captures_iter(&plain).find_map(|found| number(&plain, &found.ok()?));
    let number = first.map(|number| Answer { number: Some(number), text: whole.text.clone() });
    number.or_else(|| (!whole.text.is_empty()).then_some(whole))
}

/// The last number of a text.
fn last(text: &str) -> Option<Answer> {
    let plain = plain(text);
    let found = NUMBER.as_ref()?.captures_iter(&plain).filter_map(Result::ok).last()?;
    let text = found.get(0)?.as_str().trim().to_owned();
    Some(Answer { number: Some(number(&plain, &found)?), text })
}

/// The number that an expression is as a whole.
fn whole_number(plain: &str) -> Option<Number> {
    let found = NUMBER.as_ref()?.captures(plain).ok()??;
    let [after, before] = AROUND.as_ref()?;
    let all = found.get(0)?;
    let (front, back) = (&plain[..all.start()], &plain[all.end()..]);
    let is = |pattern: &Regex, text: &str| pattern.is_match(text).unwrap_or(false);
    let front_is_empty = front.trim().is_empty();
    ((front_is_empty || is(before, front)) && is(after, back)).then(|| number(plain, &found))?
}

fn number(text: &str, found: &Captures<'_>) -> Option<Number> {
    let part = |name: &str| found.name(name).map(|part| part.as_str());
    let mut value = match (part("top"), part("over"), part("plain")) {
        (Some(top), _, _) => {
            let fraction = over(decimal(top)?, decimal(part("bottom")?)?)?;
            match part("whole") {
                Some(whole) => {
                    let whole = decimal(whole)?.numerator.checked_mul(fraction.denominator)?;
                    let numerator = whole.checked_add(fraction.numerator)?;
                    Number::new(numerator, fraction.denominator, 0)?
                }
                None => fraction,
            }
        }
        (_, Some(top), _) => over(decimal(top)?, decimal(part("under")?)?)?,
        (_, _, Some(digits)) => decimal(digits)?,
        _ => return None,
    };
    if found.name("sign").is_some_and(|sign| is_negative(text, sign.start(), sign.as_str())) {
        value.numerator = -value.numerator;
    }
    value.percent = part("percent").is_some();
    Some(value)
}

/// Whether a sign says that a number is below 0, and not that it is taken off another (`10-3`, `10 - 3`).
fn is_negative(text: &str, at: usize, sign: &str) -> bool {
    let before = text[..at].chars().next_back();
    let is_taken_off = |c: char| c.is_alphanumeric() || matches!(c, ')' | '}' | '%');
    match sign {
        "-" => !before.is_some_and(is_taken_off),
        "+" => false,
        // With a space behind it, it belongs to what stands before it.
        _ => {
            sign.starts_with('-')
                && !text[..at].trim_end().chars().next_back().is_some_and(is_taken_off)
        }
    }
}

fn over(top: Number, bottom: Number) -> Option<Number> {
    let numerator = top.numerator.checked_mul(bottom.denominator)?;
    let denominator = top.denominator.checked_mul(bottom.numerator)?;
    Number::new(numerator, denominator, 0)
}

fn decimal(text: &str) -> Option<Number> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let digits = text.replace(',', "");
    let (whole, behind) = digits.split_once('.').unwrap_or((&digits, ""));
    let decimals = behind.len();
    let numerator: i128 = format!("0{whole}{behind}").parse().ok()?;
    let denominator = 10i128.checked_pow(u32::try_from(decimals).ok()?)?;
    Number::new(if negative { -numerator } else { numerator }, denominator, decimals)
}

/// The letter that a reply to a question with options chooses: in a box, after a mark, in brackets, or the last that
/// stands alone. An `A` before a word in lower case is an article.
pub fn choice(text: &str, letters: &[char]) -> Option<char> {
    let only = |text: &str| {
        let text = plain(text);
        let mut rest = text.trim_matches(|c: char| !c.is_alphanumeric()).chars();
        let letter = rest.next()?.to_ascii_uppercase();
        let ends = rest.next().is_none_or(|c| !c.is_alphanumeric());
        (ends && letters.contains(&letter)).then_some(letter)
    };
    if let Some(letter) = boxed(text).and_then(only) {
        return Some(letter);
    }
    let mark = MARK.as_ref()?.find_iter(text).filter_map(Result::ok).last();
    let after = mark.map_or("", |mark| &text[mark.end()..]);
    let words = after.split_whitespace().map(|word| word.trim_matches(['(', ')', '*']));
    if let Some(letter) = words.filter(|word| !word.is_empty()).take(1).find_map(only) {
        return Some(letter);
    }
    let chars: Vec<char> = text.chars().collect();
    let alone = |at: usize| {
        let side = |c: Option<&char>| c.is_none_or(|c| !c.is_alphanumeric() && *c != '\'');
        side(at.checked_sub(1).and_then(|at| chars.get(at))) && side(chars.get(at + 1))
    };
    let article = |at: usize| {
        let mut rest = chars[at + 1..].iter();
        chars[at] == 'A'
            && rest.next() == Some(&' ')
            && rest.next().is_some_and(|c| c.is_lowercase())
    };
    (0..chars.len())
        .rev()
        .find(|&at| letters.contains(&chars[at]) && alone(at) && !article(at))
        .map(|at| chars[at])
}

#[cfg(test)]
#[path = "math_tests.rs"]
mod tests;
