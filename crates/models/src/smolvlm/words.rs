//! What stands in a prompt of SmolVLM for a picture or a clip. The sentences are part of the format: the
//! model was trained with them.

use crate::visual::Piece;

/// Shows a clip in a chat template.
pub(super) const VIDEO: &str = "<video>";
/// Begins the tokens of every tile and frame, and ends those of a picture.
const FAKE: &str = "<fake_token_around_image>";
/// Says that a tile is the whole picture.
const GLOBAL: &str = "<global-img>";
/// Frames a second of clips that come without times.
const USUAL_FPS: f64 = 24.0;

/// The chat template of conversations with clips: the files' own pass clips over, and transformers puts
/// one of its own in their place (`SmolVLMProcessor.apply_chat_template`). This writes the same text.
pub(super) const CLIP_TEMPLATE: &str = "<|im_start|>\
    {% for message in messages %}\
    {{ message.role | capitalize }}:\
    {% if message.content is string %}\
    {{ ' ' ~ message.content }}\
    {% else %}\
    {{ '' if message.content[0].type == 'image' else ' ' }}\
    {% for part in message.content %}\
    {{ {'text': part.text, 'image': '<image>', 'video': '<video>'}[part.type] }}\
    {% endfor %}\
    {% endif %}\
    {{ '<end_of_utterance>\\n' }}\
    {% endfor %}\
    {{ 'Assistant:' if add_generation_prompt else '' }}";

/// A picture in `rows` by `columns` tiles and as a whole, or as a whole alone: `count` times `id` for each.
pub(super) fn picture(rows: u32, columns: u32, id: u32, count: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for row in 1..=rows {
        for column in 1..=columns {
            pieces.push(Piece::Words(format!("{FAKE}<row_{row}_col_{column}>")));
            pieces.push(Piece::Tokens { id, count });
        }
        pieces.push(Piece::Words("\n".to_owned()));
    }
    let before = if rows > 0 { "\n" } else { "" };
    pieces.extend(whole(before, id, count));
    pieces
}

/// A clip whose frames are shown at these times of `duration` seconds (the last frame's, where nothing
/// is known of that). Times of none are even, 24 a second.
pub(super) fn clip(
    frames: usize,
    times: &[f64],
    duration: Option<f64>,
    id: u32,
    count: usize,
) -> Vec<Piece> {
    let time = |frame: usize| times.get(frame).copied().unwrap_or(frame as f64 / USUAL_FPS);
    let duration = duration.unwrap_or_else(|| time(frames.saturating_sub(1)));
    let mut pieces = vec![Piece::Words(format!(
        "You are provided the following series of {} frames from a {} [H:MM:SS] video.\n",
        number(frames as u64),
        span(duration as u64)
    ))];
    for frame in 0..frames {
        let (minutes, seconds) = (time(frame) as u64 / 60, time(frame) as u64 % 60);
        let before = format!("\nFrame from {minutes:02}:{seconds:02}:");
        pieces.extend(whole(&before, id, count));
    }
    pieces.push(Piece::Words("\n\n".to_owned()));
    pieces
}

fn whole(before: &str, id: u32, count: usize) -> [Piece; 3] {
    [
        Piece::Words(format!("{before}{FAKE}{GLOBAL}")),
        Piece::Tokens { id, count },
        Piece::Words(FAKE.to_owned()),
    ]
}

/// Hours, minutes and seconds as Python's `timedelta` writes them.
fn span(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let time = format!("{}:{minutes:02}:{seconds:02}", hours % 24);
    match hours / 24 {
        0 => time,
        1 => format!("1 day, {time}"),
        days => format!("{days} days, {time}"),
    }
}

/// A number in English words, as the Python package num2words writes it.
fn number(n: u64) -> String {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 10] =
        ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    let (unit, name) = match n {
        0..20 => return SMALL[n as usize].to_owned(),
        20..100 => {
            let tens = TENS[n as usize / 10];
            return if n.is_multiple_of(10) {
                tens.to_owned()
            } else {
                format!("{tens}-{}", SMALL[n as usize % 10])
            };
        }
        100..1000 => (100, "hundred"),
        1000..1_000_000 => (1000, "thousand"),
        1_000_000..1_000_000_000 => (1_000_000, "million"),
        _ => return n.to_string(),
    };
    let (most, rest) = (number(n / unit), n % unit);
    match rest {
        0 => format!("{most} {name}"),
        1..100 => format!("{most} {name} and {}", number(rest)),
        _ => format!("{most} {name}, {}", number(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are num2words 0.5.14's.
    #[test]
    fn numbers_in_words() {
        for (n, words) in [
            (1, "one"),
            (20, "twenty"),
            (64, "sixty-four"),
            (100, "one hundred"),
            (101, "one hundred and one"),
            (342, "three hundred and forty-two"),
            (1000, "one thousand"),
            (1001, "one thousand and one"),
            (1100, "one thousand, one hundred"),
            (2345, "two thousand, three hundred and forty-five"),
            (1_000_000, "one million"),
            (1_048_576, "one million, forty-eight thousand, five hundred and seventy-six"),
        ] {
            assert_eq!(number(n), words);
        }
    }

    /// Expected values are Python's `str(timedelta(seconds=...))`.
    #[test]
    fn spans_of_time() {
        for (seconds, written) in [
            (0, "0:00:00"),
            (61, "0:01:01"),
            (36_000, "10:00:00"),
            (86_399, "23:59:59"),
            (86_400, "1 day, 0:00:00"),
            (200_000, "2 days, 7:33:20"),
        ] {
            assert_eq!(span(seconds), written);
        }
    }
}
