//! Stage 1b, questions: the model writes one question for each topic, several topics at a time after solved seeds.

use rand::seq::index::sample;
use savi_judge::order::seeded_rng;
use savi_run::Stage;
use savi_schema::SCHEMA_VERSION;

use crate::ask::{Asker, finish, unending};
use crate::prompts::hint;
use crate::records::{AskedQuestions, Counters, Dropped, TopicQuestion, count};
use crate::topics::Topic;
use crate::{Data, Error, Prompts, Questions, SeedTopic};

const STAGE: &str = "questions";

/// The requests for questions about `topics`, and what was counted.
pub(crate) fn questions(
    asker: &Asker<'_>,
    config: &Questions,
    data: &Data,
    prompts: &Prompts,
    topics: &[Topic],
) -> Result<(Vec<AskedQuestions>, Counters), Error> {
    let key = asker.key(STAGE).with("config", config).with("seeds", &data.red_team);
    let key = key.with("prompts", &prompts.key()).with("topics", topics);
    let mut stage: Stage<AskedQuestions> = asker.stage("03-questions", &key)?;
    let mut units = Vec::new();
    let mut packs: Vec<Vec<&Topic>> = Vec::new();
    for group in 0..config.groups {
        let own: Vec<&Topic> = topics.iter().skip(group).step_by(config.groups).collect();
        for (number, pack) in own.chunks(config.packed).enumerate() {
            units.push(format!("{group:03}/{number:06}"));
            packs.push(pack.to_vec());
        }
    }
    let sampling = unending(&config.sampling, config.forbid_end);
    asker.each(&mut stage, "writing questions", &units, |missing| {
        let hints: Vec<Hints<'_>> = missing
            .iter()
            .map(|&at| {
                Hints::new(asker.seed, &units[at], &data.red_team, config.in_context, &packs[at])
            })
            .collect();
        let wanted = missing.iter().zip(&hints).map(|(&at, hints)| {
            let solved: Vec<(String, &SeedTopic)> = hints.solved.clone();
            let prompt = prompts.questions(&hints.all(), &solved, &hints.open[0])?;
            Ok((units[at].clone(), prompt))
        });
        let wanted = wanted.collect::<Result<Vec<_>, Error>>()?;
        let replies = asker.draw(STAGE, wanted, &sampling)?;
        let asked =
            missing.iter().zip(hints).zip(replies).map(|((&at, hints), reply)| AskedQuestions {
                schema: SCHEMA_VERSION,
                id: units[at].clone(),
                questions: parse(&reply.text, &hints.open, &packs[at], reply.cut),
                raw: reply.text,
                cut: reply.cut,
            });
        Ok(asked.collect())
    })?;
    finish(stage, STAGE, |asked| {
        let all = asked.iter().flat_map(|asked| &asked.questions);
        let mut counters = count(all.map(|question| question.dropped));
        counters.insert("requests".to_owned(), asked.len() as u64);
        counters
    })
}

/// What a request shows: solved seeds, then topics that are open, numbered through.
struct Hints<'a> {
    solved: Vec<(String, &'a SeedTopic)>,
    open: Vec<String>,
}

impl<'a> Hints<'a> {
    fn new(seed: u64, unit: &str, seeds: &'a [SeedTopic], count: usize, pack: &[&Topic]) -> Self {
        let mut rng = seeded_rng(seed, &[STAGE, "shown", unit]);
        let shown = sample(&mut rng, seeds.len(), count.min(seeds.len()));
        let solved: Vec<(String, &SeedTopic)> = shown
            .iter()
            .enumerate()
            .map(|(place, at)| {
                let seed = &seeds[at];
                (hint(place + 1, &seed.question_type, &seed.topic), seed)
            })
            .collect();
        let first = solved.len() + 1;
        let open = pack.iter().enumerate();
        let open =
            open.map(|(place, topic)| hint(first + place, &topic.question_type, &topic.topic));
        Self { open: open.collect(), solved }
    }

    fn all(&self) -> Vec<String> {
        self.solved
            .iter()
            .map(|(label, _)| label.clone())
            .chain(self.open.iter().cloned())
            .collect()
    }
}

/// The questions of a reply to a prompt that ended with the first open hint and `instruction:`. A line counts for the
/// hint that it begins with, once; the last line is left away where the reply was cut off.
fn parse(raw: &str, open: &[String], pack: &[&Topic], cut: bool) -> Vec<TopicQuestion> {
    const LABEL: &str = "instruction:";
    let Some(first) = open.first() else { return Vec::new() };
    let text = format!("{first}, {LABEL}{raw}");
    let mut lines: Vec<&str> = text.lines().collect();
    if cut {
        lines.pop();
    }
    let mut met = vec![false; open.len()];
    let mut read = Vec::new();
    for line in lines.into_iter().map(str::trim).filter(|line| !line.is_empty()) {
        let place = open.iter().position(|hint| line.starts_with(hint.as_str()));
        let said = line.split_once(LABEL).map(|(_, said)| said.trim());
        let (topic, dropped) = match (place, said) {
            (Some(at), Some(said)) => {
                let again = std::mem::replace(&mut met[at], true);
                let dropped = match (said.is_empty(), again) {
                    (true, _) => Some(Dropped::Empty),
                    (false, true) => Some(Dropped::Duplicate),
                    (false, false) => None,
                };
                (Some(pack[at]), dropped)
            }
            _ => (None, Some(Dropped::NoHint)),
        };
        read.push(TopicQuestion {
            question_type: topic.map(|topic| topic.question_type.clone()).unwrap_or_default(),
            topic: topic.map(|topic| topic.topic.clone()).unwrap_or_default(),
            question: topic.and(said).unwrap_or(line).to_owned(),
            dropped,
        });
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_for_the_hint_they_begin_with() {
        let topic = |topic: &str| Topic {
            question_type: "Questions about art".to_owned(),
            topic: topic.to_owned(),
        };
        let (frames, light) = (topic("Frames"), topic("Light"));
        let pack = [&frames, &light];
        let open: Vec<String> = pack
            .iter()
            .enumerate()
            .map(|(at, t)| hint(at + 6, &t.question_type, &t.topic))
            .collect();
        let raw = " Who made this frame?\n\n7. type: Instructions about art, topic: Light, instruction: Paint it.\n\
                   7. type: Instructions about art, topic: Light, instruction: Again.\n\
                   8. type: Instructions about art, topic: Dust, instruction: No.\n\
                   6. type: Instructions about art, topic: Frames, instruction:";
        let read = parse(raw, &open, &pack, false);
        let dropped: Vec<Option<Dropped>> = read.iter().map(|question| question.dropped).collect();
        let expected =
            [None, None, Some(Dropped::Duplicate), Some(Dropped::NoHint), Some(Dropped::Empty)];
        assert_eq!(dropped, expected);
        assert_eq!(
            (read[0].question.as_str(), read[0].topic.as_str()),
            ("Who made this frame?", "Frames")
        );
        assert_eq!(read[1].question, "Paint it.");
        assert_eq!(parse(raw, &open, &pack, true).len(), 4);
    }
}
