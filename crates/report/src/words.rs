//! How figures and names are written on the page.

/// A share as a percentage: `61.2`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// A difference of shares in points, with its sign: `+4.2`.
pub(crate) fn points(difference: f64) -> String {
    let text = format!("{:+.1}", 100.0 * difference);
    if text == "-0.0" || text == "+0.0" { "0.0".to_owned() } else { minus(&text) }
}

/// A figure of any size in a few characters.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    let text = if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e6).contains(&size) {
        format!("{value:.1e}")
    } else if size >= 1000.0 {
        format!("{value:.0}")
    } else if size >= 100.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    };
    minus(&text)
}

/// The sign of a negative number as a minus, not a hyphen.
fn minus(text: &str) -> String {
    text.replace('-', "\u{2212}")
}

/// Why something was left out, in words. Reasons that are not known here keep their name.
pub(crate) fn reason(name: &str) -> String {
    let words = match name {
        "empty" => "no words",
        "cut-off" => "cut off at the token limit",
        "not-a-question" => "not a question",
        "other-kind" => "another kind of question than asked for",
        "duplicate" => "a repetition",
        "one-candidate" => "all candidates say the same",
        "unparsed" => "judgement or critique unreadable",
        "margin" => "best and worst too close",
        "tie" => "a tie",
        "called-right" => "the critique calls the answer right",
        "unchanged" => "the revision changes nothing",
        "length-ratio" => "one answer much longer than the other",
        other => return other.replace('-', " "),
    };
    words.to_owned()
}

/// Text between tags and in attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        for (value, text) in [
            (0.0, "0"),
            (-0.25, "\u{2212}0.250"),
            (12.345, "12.35"),
            (123.45, "123.5"),
            (54321.0, "54321"),
            (2e-5, "2.0e\u{2212}5"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(percent(0.6125), "61.3");
        assert_eq!([points(0.042), points(-0.0001)], ["+4.2", "0.0"]);
        assert_eq!(points(-0.042), "\u{2212}4.2");
    }

    #[test]
    fn reasons_that_are_not_known_keep_their_name() {
        assert_eq!(reason("margin"), "best and worst too close");
        assert_eq!(reason("too-blue"), "too blue");
    }

    #[test]
    fn nothing_opens_a_tag_or_closes_an_attribute() {
        assert_eq!(escape("<a b='\"&"), "&lt;a b=&#39;&quot;&amp;");
    }
}
