use super::*;

fn found(text: &str, find: Find) -> Option<Answer> {
    Answer::find(text, find)
}

fn same(known: &str, reply: &str, find: Find) -> bool {
    found(reply, find).is_some_and(|answer| Answer::known(known).is_same(&answer))
}

/// What math-verify finds equal is equal here; what it misses (fractions in bare LaTeX or in bold, separators of thousands
/// after `x =`, a minus that is no hyphen) is found where the reply was made from the answer's value.
#[test]
fn answers_are_the_same_where_math_verify_says_so() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/verifier/golden.json");
    let golden: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (mut wrong, mut missed) = (Vec::new(), 0);
    let rows = golden["rows"].as_array().unwrap();
    for row in rows {
        let (known, reply) = (row[0].as_str().unwrap(), row[1].as_str().unwrap());
        let (by_peer, made) = (row[2].as_bool().unwrap(), row[3].as_bool().unwrap());
        assert!(made || !by_peer, "{known:?} {reply:?}");
        missed += usize::from(made && !by_peer);
        if same(known, reply, Find::Auto) != made {
            wrong.push(format!("{known:?} {reply:?}: {made}"));
        }
    }
    assert!(rows.len() > 400 && missed < 30, "{missed} of {}", rows.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

#[test]
fn answers_are_found_where_they_are_looked_for() {
    let text = "First 12. The answer is 7 because 3 + 4 = 7.\nOr \\boxed{-1{,}234.50}? I say 9";
    let is = |find: Find, want: &str| found(text, find).unwrap().is_same(&Answer::known(want));
    assert!(is(Find::Auto, "-1234.5") && is(Find::Boxed, "-2469/2"));
    assert!(is(Find::Marked, "7") && is(Find::Last, "9"));
    for (reply, find) in [("nothing", Find::Last), ("7", Find::Boxed), ("7", Find::Marked)] {
        assert_eq!(found(reply, find), None);
    }
    assert!(same("they add up to #### 1,234", "1234", Find::Last));
    assert!(same("\\text{Evelyn}", "\\boxed{ evelyn }", Find::Auto));
    assert!(!same("7", "\\boxed{x + 7}", Find::Auto));
    for (text, want) in
        [("10-3", "3"), ("10 - 3", "3"), ("it is -3", "-3"), ("= - 3", "-3"), ("\u{2212}3", "-3")]
    {
        assert!(found(text, Find::Last).unwrap().is_same(&Answer::known(want)), "{text}");
    }
    assert!(same("2.5", "1\\frac{3}{2}", Find::Auto) && same("1/3", "0.333333", Find::Auto));
    assert!(!same("1/3", "0.333", Find::Auto) && !same("5", "5.0000001", Find::Auto));
    assert!(same("0.5", "50\\%", Find::Auto) && same("50", "50%", Find::Auto));
    assert!(!same("50", "0.5", Find::Auto) && !same("1/0", "1/0x", Find::Last));
}

#[test]
fn letters_are_chosen() {
    let letters = ['A', 'B', 'C', 'D'];
    for (text, want) in [
        ("B", Some('B')),
        ("(c)", None),
        ("The answer is (C) because A is wrong.", Some('C')),
        ("\\boxed{D}", Some('D')),
        ("**Answer:** b", Some('B')),
        ("A cat sits. I choose D.", Some('D')),
        ("A cat", None),
        ("A", Some('A')),
        ("It's between A and B", Some('B')),
        ("", None),
        ("E", None),
        ("Banana", None),
    ] {
        assert_eq!(choice(text, &letters), want, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_odd(text in "[-+0-9.,/%$\\\\{}a-zA ]{0,40}") {
        for find in [Find::Auto, Find::Boxed, Find::Marked, Find::Last] {
            if let Some(answer) = Answer::find(&text, find) {
                proptest::prop_assert!(answer.is_same(&answer) || answer.text.is_empty());
            }
        }
        choice(&text, &['A', 'B']);
    }
}
