//! Stage 1b, topics (topic-guided red-teaming): rounds in which the model adds topics to every type of question.
//! Types are kept of one size, that of the smallest, so that none crowds out the others.

use std::collections::HashSet;

use rand::seq::{SliceRandom, index::sample};
use savi_judge::order::seeded_rng;
use savi_run::Stage;
use savi_schema::SCHEMA_VERSION;

use crate::ask::{Asker, finish, unending};
use crate::records::{AskedTopics, Counters, Dropped, Line, count};
use crate::{Data, Error, Prompts, Topics};

const STAGE: &str = "topics";

/// A topic and its type.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Topic {
    pub(crate) question_type: String,
    pub(crate) topic: String,
}

/// The topics of all types after the last round, shuffled.
pub(crate) fn topics(
    asker: &Asker<'_>,
    config: &Topics,
    data: &Data,
    prompts: &Prompts,
) -> Result<(Vec<Topic>, Counters), Error> {
    let key = asker.key(STAGE).with("config", config).with("seeds", &data.red_team);
    let mut stage: Stage<AskedTopics> =
        asker.stage("02-topics", &key.with("prompts", &prompts.key()))?;
    let types: Vec<&str> = types(data);
    let mut pool: Vec<Vec<String>> = types
        .iter()
        .map(|of| {
            let seeds = data.red_team.iter().filter(|seed| seed.question_type == *of);
            seeds.map(|seed| seed.topic.clone()).collect()
        })
        .collect();
    for round in 1..=config.rounds {
        balance(&mut pool, config.most_of_a_type);
        let asked = ask(asker, config, prompts, &types, &pool, round, &mut stage)?;
        for asked in asked {
            let Some(at) = types.iter().position(|of| *of == asked.question_type) else { continue };
            let kept = asked.topics.into_iter().filter(|topic| topic.dropped.is_none());
            pool[at].extend(kept.map(|topic| topic.text));
        }
    }
    balance(&mut pool, config.most_of_a_type);
    let size = pool.iter().map(Vec::len).sum::<usize>() as u64;
    let (_, counters) = finish(stage, STAGE, |asked| {
        let mut counters =
            count(asked.iter().flat_map(|asked| &asked.topics).map(|line| line.dropped));
        counters.insert("requests".to_owned(), asked.len() as u64);
        counters.insert("pool".to_owned(), size);
        counters
    })?;
    let mut topics: Vec<Topic> = types
        .iter()
        .zip(pool)
        .flat_map(|(of, topics)| {
            topics.into_iter().map(|topic| Topic { question_type: (*of).to_owned(), topic })
        })
        .collect();
    topics.shuffle(&mut seeded_rng(asker.seed, &[STAGE, "shuffle"]));
    Ok((topics, counters))
}

/// The types in the order of their seeds, each once.
pub(crate) fn types(data: &Data) -> Vec<&str> {
    let mut seen = HashSet::new();
    let all = data.red_team.iter().map(|seed| seed.question_type.as_str());
    all.filter(|of| seen.insert(*of)).collect()
}

/// Leaves of every type the first topics, each once whatever its case, and as many as the smallest type has.
fn balance(pool: &mut [Vec<String>], most: usize) {
    for topics in pool.iter_mut() {
        let mut seen = HashSet::new();
        topics.retain(|topic| seen.insert(topic.to_lowercase()));
    }
    let smallest = pool.iter().map(Vec::len).min().unwrap_or(0);
    let most = if most == 0 { smallest } else { smallest.min(most) };
    pool.iter_mut().for_each(|topics| topics.truncate(most));
}

/// One request for every topic of the pool.
fn ask(
    asker: &Asker<'_>,
    config: &Topics,
    prompts: &Prompts,
    types: &[&str],
    pool: &[Vec<String>],
    round: u32,
    stage: &mut Stage<AskedTopics>,
) -> Result<Vec<AskedTopics>, Error> {
    let places: Vec<(usize, usize)> =
        (0..pool.len()).flat_map(|of| (0..pool[of].len()).map(move |at| (of, at))).collect();
    let units: Vec<String> =
        places.iter().map(|(of, at)| format!("r{round:02}/{of:03}/{at:05}")).collect();
    let shown = |unit: usize| -> Vec<String> {
        let (of, at) = places[unit];
        let topics = &pool[of];
        if topics.len() < config.show_many_from.max(config.shown) {
            return vec![topics[at].clone()];
        }
        let mut rng = seeded_rng(asker.seed, &[STAGE, "shown", &units[unit]]);
        let shown = sample(&mut rng, topics.len(), config.shown);
        shown.iter().map(|at| topics[at].clone()).collect()
    };
    let sampling = unending(&config.sampling, config.forbid_end);
    asker.each(stage, &format!("writing topics, round {round}"), &units, |missing| {
        let shown: Vec<Vec<String>> = missing.iter().map(|&unit| shown(unit)).collect();
        let wanted = missing.iter().zip(&shown).map(|(&unit, shown)| {
            let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
            let prompt = prompts.topics(types[places[unit].0], &shown, config.topics)?;
            Ok((units[unit].clone(), prompt))
        });
        let wanted = wanted.collect::<Result<Vec<_>, Error>>()?;
        let replies = asker.draw(STAGE, wanted, &sampling)?;
        let asked =
            missing.iter().zip(shown).zip(replies).map(|((&unit, shown), reply)| AskedTopics {
                schema: SCHEMA_VERSION,
                id: units[unit].clone(),
                question_type: types[places[unit].0].to_owned(),
                topics: parse(&reply.text, shown.len() + 1, reply.cut, config),
                shown,
                raw: reply.text,
                cut: reply.cut,
            });
        Ok(asked.collect())
    })
}

/// The topics of a reply to a prompt that ended with the open number `first`.
fn parse(raw: &str, first: usize, cut: bool, config: &Topics) -> Vec<Line> {
    let text = format!("{first}.{raw}");
    let mut lines: Vec<&str> = text.lines().collect();
    // What the token limit has cut may be half a word.
    if cut && !text.ends_with('\n') {
        lines.pop();
    }
    let lines = lines.into_iter().take(config.lines).map(|line| {
        let text = unnumbered(line).to_owned();
        Line { dropped: fault(&text, config), text }
    });
    lines.collect()
}

/// A line without its number or dash.
fn unnumbered(line: &str) -> &str {
    let line = line.trim();
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
    match rest.strip_prefix('.') {
        Some(rest) if rest.len() + 1 < line.len() => rest.trim(),
        _ => line.strip_prefix("- ").unwrap_or(line).trim(),
    }
}

/// Why a topic is not used.
pub(crate) fn fault(topic: &str, config: &Topics) -> Option<Dropped> {
    let capital = |topic: &str| topic.starts_with(|c: char| c.is_ascii_uppercase());
    if topic.split_whitespace().count() > config.most_words {
        Some(Dropped::Long)
    } else if topic.is_empty() {
        Some(Dropped::Empty)
    } else if config.capital && !capital(topic) {
        Some(Dropped::NoCapital)
    } else if topic.ends_with(|c: char| c.is_ascii_punctuation()) {
        Some(Dropped::Punctuation)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_topics() {
        let config = Topics { lines: 8, ..Topics::default() };
        let raw = " Rain\n3. Snow storms\n\n4. the wind\n- Fog\n5. Hail.\n6. One two three four\n7. 1990s\n8. Beyond";
        let read: Vec<(String, Option<Dropped>)> = parse(raw, 2, false, &config)
            .into_iter()
            .map(|line| (line.text, line.dropped))
            .collect();
        let expected = [
            ("Rain", None),
            ("Snow storms", None),
            ("", Some(Dropped::Empty)),
            ("the wind", Some(Dropped::NoCapital)),
            ("Fog", None),
            ("Hail.", Some(Dropped::Punctuation)),
            ("One two three four", Some(Dropped::Long)),
            ("1990s", Some(Dropped::NoCapital)),
        ];
        assert_eq!(read, expected.map(|(text, dropped)| (text.to_owned(), dropped)));
        assert_eq!(parse(" Rain\n3. Sn", 2, true, &config).len(), 1);
        let lenient = Topics { capital: false, ..config };
        assert_eq!(parse(" rain", 2, false, &lenient)[0].dropped, None);
    }

    #[test]
    fn types_have_the_size_of_the_smallest() {
        let list =
            |topics: &[&str]| topics.iter().map(|&topic| topic.to_owned()).collect::<Vec<_>>();
        let mut pool = vec![list(&["A", "a", "B", "C"]), list(&["X", "Y", "y"])];
        balance(&mut pool, 0);
        assert_eq!(pool, [list(&["A", "B"]), list(&["X", "Y"])]);
        balance(&mut pool, 1);
        assert_eq!(pool, [list(&["A"]), list(&["X"])]);
    }
}
