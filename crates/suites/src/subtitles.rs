//! Subtitles as words before a question: the lines of a `.srt` file, or of a JSON list with `text` or `line`.

use std::path::Path;

use serde_json::Value;

/// The spoken lines of a file, in order, without numbers, times and marks of style. `None` for a file of another kind.
pub(crate) fn lines(path: &Path, text: &str) -> Option<Vec<String>> {
    let clean = |line: &str| without_tags(line).trim().to_owned();
    let lines: Vec<String> = match path.extension()?.to_str()? {
        "srt" => text.lines().map(clean).filter(|line| is_spoken(line)).collect(),
        "json" => {
            let rows: Vec<Value> = serde_json::from_str(text).ok()?;
            let said =
                |row: &Value| Some(row.get("text").or(row.get("line"))?.as_str()?.to_owned());
            rows.iter().filter_map(said).map(|line| clean(&line)).collect()
        }
        _ => return None,
    };
    Some(lines.into_iter().filter(|line| !line.is_empty()).collect())
}

/// Neither a number of a block nor its times.
fn is_spoken(line: &str) -> bool {
    !line.contains("-->") && !line.chars().all(|c| c.is_ascii_digit() || c == '\u{feff}')
}

fn without_tags(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut depth = 0usize;
    for c in line.chars() {
        match c {
            '<' => depth += 1,
            '>' if depth > 0 => depth -= 1,
            c if depth == 0 => kept.push(c),
            _ => {}
        }
    }
    // A "<" that nothing closes is no tag.
    if depth > 0 { line.to_owned() } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoken_lines_remain() {
        let srt = "\u{feff}1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>Good</i> morning.\r\n\r\n2\r\n\
                   00:00:03,000 --> 00:00:04,000\r\n3 < 4\r\n";
        assert_eq!(lines(Path::new("a.srt"), srt).unwrap(), ["Good morning.", "3 < 4"]);
        let json = r#"[{"timestamp": [0, 1], "text": "One"}, {"start": "0", "line": "two "}, {"text": ""}]"#;
        assert_eq!(lines(Path::new("a.json"), json).unwrap(), ["One", "two"]);
        assert_eq!(lines(Path::new("a.vtt"), "x"), None);
        assert_eq!(lines(Path::new("a.json"), "{"), None);
    }
}
