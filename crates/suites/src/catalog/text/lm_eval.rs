//! How lm-evaluation-harness 0.4.13 reads replies to GSM8K (`gsm8k.yaml`, version 3.0): two filters that take a piece of
//! the reply, and a comparison of texts after what both sides are rid of. Neither knows that 18 and 18.0 are one number.

use crate::readers::Reading;
use crate::{Gold, Item};

/// The filter `strict-match`: what stands after the first `#### ` that digits, points or commas follow, which one minus
/// may precede.
pub(super) fn strict_match(item: &Item, reply: &str, _: u64) -> Reading {
    compared(item, after_hashes(reply))
}

/// The filter `flexible-extract`: the last piece of two or more digits, points, commas or dollars, or of digits alone,
/// which one minus may precede. A sentence's full stop after a number belongs to it; the comparison takes it off.
pub(super) fn flexible_extract(item: &Item, reply: &str, _: u64) -> Reading {
    compared(item, last_number(reply))
}

fn after_hashes(reply: &str) -> Option<&str> {
    reply.match_indices("#### ").find_map(|(at, mark)| {
        let rest = &reply[at + mark.len()..];
        let sign = usize::from(rest.starts_with('-'));
        let number = run(&rest.as_bytes()[sign..], b".,");
        (number > 0).then(|| &rest[..sign + number])
    })
}

fn last_number(reply: &str) -> Option<&str> {
    let bytes = reply.as_bytes();
    let (mut at, mut last) = (0, None);
    while at < bytes.len() {
        let sign = usize::from(bytes[at] == b'-');
        let rest = &bytes[at + sign..];
        let (signs, digits) = (run(rest, b"$.,"), run(rest, b""));
        let length = if signs >= 2 { signs } else { digits };
        if length == 0 {
            at += 1;
        } else {
            let end = at + sign + length;
            last = Some(&reply[at..end]);
            at = end;
        }
    }
    last
}

/// How many bytes from the first on are digits or one of `others`.
fn run(bytes: &[u8], others: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_digit() || others.contains(byte)).count()
}

fn compared(item: &Item, found: Option<&str>) -> Reading {
    let right = match &item.gold {
        Gold::Text(gold) => found.is_some_and(|found| bare(found) == bare(gold)),
        _ => false,
    };
    Reading {
        answer: found.map(str::to_owned),
        credit: Some(f64::from(right)),
        guessed: false,
        needs_judge: false,
    }
}

/// Without commas, dollars and one full stop at the end, in lower case.
fn bare(text: &str) -> String {
    let text = text.replace([',', '$'], "");
    text.strip_suffix('.').unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `make.py` beside the file ran the harness's own filters and metric on replies made from these pieces.
    #[test]
    fn replies_are_read_as_the_harness_reads_them() {
        let rows = include_str!("../../../../../tests/goldens/suites/gsm8k/replies.jsonl");
        let mut seen = [0; 3];
        for row in rows.lines() {
            let (reply, solution, strict, strict_right, flexible, flexible_right): Row =
                serde_json::from_str(row).unwrap();
            let gold = solution.rsplit_once("#### ").unwrap().1.to_owned();
            let item = Item::new("i", "q", Gold::Text(gold));
            for (read, piece, right) in [
                (strict_match(&item, &reply, 0), strict, strict_right),
                (flexible_extract(&item, &reply, 0), flexible, flexible_right),
            ] {
                let answer = read.answer.as_deref().unwrap_or("[invalid]");
                assert_eq!((answer, read.credit), (piece.as_str(), Some(right)), "{reply:?}");
            }
            seen[0] += 1;
            seen[1] += usize::from(strict_right > 0.0);
            seen[2] += usize::from(flexible_right > 0.0);
        }
        assert!(seen[0] >= 5000 && seen[1] >= 500 && seen[2] >= 500, "{seen:?}");
    }

    /// The reply, the solution, and for both filters what was taken and whether it was right.
    type Row = (String, String, String, f64, String, f64);
}
