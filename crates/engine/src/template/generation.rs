//! `{% generation %}` blocks, by which templates tell what the assistant says. The block is transformers' own;
//! here it becomes Jinja's `{% call %}`, which has its scoping: the words of the two tags are replaced, and
//! everything else, whitespace control and line numbers included, stays as it is.

/// The function that such a block calls.
pub(super) const FUNCTION: &str = "generation_block";

/// The template without generation blocks, and whether it had any.
pub(super) fn rewritten(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len() + 64);
    let mut found = false;
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let length = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => end_of_code(tag, "}}"),
            Some(b'%') => match word(tag) {
                "raw" => end_of_raw(tag),
                _ => end_of_code(tag, "%}"),
            },
            _ => 1,
        };
        let (tag, after) = tag.split_at(length);
        let replacement = match (tag.starts_with("{%"), word(tag)) {
            (true, "generation") => Some(("generation", format!("call {FUNCTION}()"))),
            (true, "endgeneration") => Some(("endgeneration", "endcall".to_owned())),
            _ => None,
        };
        match replacement {
            Some((word, ours)) => {
                found = true;
                out.push_str(&tag.replacen(word, &ours, 1));
            }
            None => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    (out, found)
}

/// The first word of a tag.
fn word(tag: &str) -> &str {
    let inner = tag.get(2..).unwrap_or("");
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
    let end = inner.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inner.len());
    &inner[..end]
}

/// Bytes up to where a tag closes outside of strings and braces.
fn end_of_code(tag: &str, close: &str) -> usize {
    let bytes = tag.as_bytes();
    let (mut at, mut quote, mut depth) = (2, None, 0usize);
    while let Some(&byte) = bytes.get(at) {
        match (quote, byte) {
            (Some(_), b'\\') => at += 1,
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, _) if depth == 0 && bytes[at..].starts_with(close.as_bytes()) => {
                return at + close.len();
            }
            (None, b'{') => depth += 1,
            (None, b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    tag.len()
}

/// Bytes up to the end of a raw block.
fn end_of_raw(tag: &str) -> usize {
    let mut at = end_of_code(tag, "%}");
    while let Some(next) = tag[at..].find("{%") {
        at += next;
        let end = end_of_code(&tag[at..], "%}");
        if word(&tag[at..]) == "endraw" {
            return at + end;
        }
        at += 2;
    }
    tag.len()
}

#[cfg(test)]
mod tests {
    use super::rewritten;

    #[test]
    fn only_the_tags_change() {
        let (text, found) = rewritten(
            "{#{% generation %}#}{%- generation -%}a{{ '{% generation %}' }}{% endgeneration\n%}",
        );
        assert!(found);
        assert_eq!(
            text,
            "{#{% generation %}#}{%- call generation_block() -%}a{{ '{% generation %}' }}{% endcall\n%}"
        );
        for same in [
            "{% raw %}{% generation %}{% endraw %}",
            "{% set generation = {'a': {'b': 1}} %}{{ generation }}",
            "{% if x == \"{% generation %}\" %}{ % generation %}{% endif",
            "{{ {'a': {'b': '}}'}} }} { {{",
            "{% generational %}",
        ] {
            assert_eq!(rewritten(same), (same.to_owned(), false));
        }
    }
}
