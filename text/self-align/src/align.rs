//! Stage 2, principle-driven self-alignment: the base model answers under the principles, after five examples.
//!
//! All prompts share everything up to the query, so that the engine computes it once. What is taught later is the
//! answer alone.

use savi_run::Stage;
use savi_schema::SCHEMA_VERSION;

use crate::answers::{end, leaks, scaffold};
use crate::ask::{Asker, Reply, finish};
use crate::prompts::Form;
use crate::records::{Answered, Counters, Dropped, Query, count, told};
use crate::run::FirstToken;
use crate::trim::{ENDS, after, has_any};
use crate::{Align, Data, Error, Persona, Prompts, thoughts};

const STAGE: &str = "align";
const FOLDER: &str = "05-align";

/// Answers to all queries, those that are left out with the reason, and what was counted.
pub(crate) fn align(
    asker: &Asker<'_>,
    config: &Align,
    data: &Data,
    prompts: &Prompts,
    queries: &[Query],
    first_token: &FirstToken<'_>,
) -> Result<(Vec<Answered>, Counters), Error> {
    let mut sampling = config.sampling.clone();
    sampling.stop.push(prompts.persona().user.clone());
    for word in &config.banned_starts {
        let token = first_token(word).map_err(|source| Error::of_model(STAGE, source))?;
        sampling.logit_bias.extend(token.map(|token| (token, config.ban)));
    }
    let key = asker.key(STAGE).with("config", config).with("prompts", &prompts.key());
    let key = key.with("leaks", &leaks(data)).with("sampling", &sampling).with("queries", queries);
    let mut stage: Stage<Answered> = asker.stage(FOLDER, &key)?;
    let units: Vec<String> = queries.iter().map(|query| query.id.clone()).collect();
    let filter = Filter::new(config, data, prompts.persona());
    asker.each(&mut stage, "answering under the principles", &units, |missing| {
        let wanted = missing.iter().map(|&at| {
            let Query { id, instruction, input, .. } = &queries[at];
            Ok((id.clone(), prompts.query(Form::Principles, instruction, input)?))
        });
        let wanted = wanted.collect::<Result<Vec<_>, Error>>()?;
        let replies = asker.draw(STAGE, wanted, &sampling)?;
        Ok(missing
            .iter()
            .zip(replies)
            .map(|(&at, reply)| filter.read(&queries[at], reply))
            .collect())
    })?;
    let (answers, counters) = finish(stage, STAGE, counters)?;
    if answers.iter().all(|answer| answer.dropped.is_some()) {
        return Err(Error::Nothing { stage: STAGE, counts: told(&counters), folder: FOLDER });
    }
    Ok((answers, counters))
}

/// Everything that an answer has to pass.
struct Filter<'a> {
    config: &'a Align,
    persona: &'a Persona,
    principles: usize,
    scaffold: Vec<String>,
    leaks: Vec<String>,
}

impl<'a> Filter<'a> {
    fn new(config: &'a Align, data: &Data, persona: &'a Persona) -> Self {
        let (scaffold, leaks) = (scaffold(persona), leaks(data));
        Self { config, persona, principles: data.principles.len(), scaffold, leaks }
    }

    fn read(&self, query: &Query, reply: Reply) -> Answered {
        let mut answered = Answered {
            schema: SCHEMA_VERSION,
            id: query.id.clone(),
            source: query.source,
            instruction: query.instruction.clone(),
            input: query.input.clone(),
            thoughts: None,
            answer: String::new(),
            truncated: reply.cut,
            looped: false,
            canned: false,
            dropped: None,
            raw: reply.text,
        };
        let (thoughts, answer) = match thoughts::read(&answered.raw, self.persona, self.principles)
        {
            Ok(read) => read,
            Err(dropped) => {
                answered.dropped = Some(dropped);
                return answered;
            }
        };
        let ended = end(answer, reply.cut, self.persona, &ENDS);
        answered.thoughts = Some(thoughts);
        answered.dropped = self.fault(&ended.text, ended.truncated);
        (answered.truncated, answered.looped) = (ended.truncated, ended.looped);
        answered.answer = self.finished(&ended.text);
        answered
    }

    /// Why an answer is not used; the first reason in the paper's order.
    fn fault(&self, answer: &str, truncated: bool) -> Option<Dropped> {
        let length = answer.chars().count() + self.persona.terminator().chars().count();
        if !truncated && length < self.config.least_chars {
            Some(Dropped::Short)
        } else if has_any(answer, &self.scaffold) {
            Some(Dropped::Heading)
        } else if has_any(answer, &self.config.blacklist) {
            Some(Dropped::Blacklisted)
        } else if has_any(answer, &self.leaks) {
            Some(Dropped::Leak)
        } else if self.config.apologies.iter().any(|apology| after(answer, apology).is_some()) {
            Some(Dropped::Apology)
        } else if answer.is_empty() {
            Some(Dropped::Empty)
        } else {
            None
        }
    }

    /// An answer under the product's name, without the formula that it may begin with.
    fn finished(&self, answer: &str) -> String {
        let formula = self.config.formulas.iter().find_map(|formula| after(answer, formula));
        let answer = match formula.map(str::trim_start) {
            Some(rest) => {
                let mut rest = rest.chars();
                rest.next()
                    .map(|first| first.to_uppercase().chain(rest).collect())
                    .unwrap_or_default()
            }
            None => answer.to_owned(),
        };
        answer.replace(&self.persona.name, &self.persona.product)
    }
}

/// Yield and rejections, and how often each principle was cited.
fn counters(answers: &[Answered]) -> Counters {
    let mut counters = count(answers.iter().map(|answer| answer.dropped));
    for answer in answers {
        let rules = answer.thoughts.iter().flat_map(|thoughts| &thoughts.rules);
        for rule in rules {
            *counters.entry(format!("rule/{rule:02}")).or_default() += 1;
        }
        if answer.dropped.is_none() {
            for (name, is) in [("truncated", answer.truncated), ("looped", answer.looped)] {
                *counters.entry(name.to_owned()).or_default() += u64::from(is);
            }
            *counters.entry(format!("from-{}", answer.source.name())).or_default() += 1;
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Source;
    use crate::{DataFiles, PromptFiles};

    #[test]
    fn answers_pass_the_filters_in_order() {
        let data = Data::load(&DataFiles::default()).unwrap();
        let prompts = Prompts::load(&PromptFiles::default(), &Persona::default(), &data).unwrap();
        let config = Align::default();
        let filter = Filter::new(&config, &data, prompts.persona());
        let query = Query {
            schema: 1,
            id: "0000000".to_owned(),
            source: Source::Given,
            instruction: "Why?".to_owned(),
            input: String::new(),
            dropped: None,
        };
        let long = "Aide has read about it in the north, where the winters are long and people have time for \
                    stories; in the south nobody tells them any more, which is a pity for all of us";
        let read = |answer: &str, cut: bool| {
            let text =
                format!("I am Aide, and I think before I answer. 7 (candor)\n\n### Aide\n{answer}");
            filter.read(&query, Reply { text, cut })
        };
        let check = |answer: &str, cut: bool, expected: Option<Dropped>| {
            let read = read(answer, cut);
            assert_eq!(read.dropped, expected, "{answer}: {read:?}");
            assert_eq!(read.thoughts.unwrap().rules, [7]);
        };
        check(long, false, None);
        check("Because.", false, Some(Dropped::Short));
        check("Because it is so.", true, None);
        check("Because", true, Some(Dropped::Empty));
        check(&format!("{long} ### Aide"), false, Some(Dropped::Heading));
        check(
            &format!("{long} WELL DONE. Please clear the context."),
            false,
            Some(Dropped::Heading),
        );
        check(
            &format!("{long}. Could you provide more details?"),
            false,
            Some(Dropped::Blacklisted),
        );
        check(&format!("{long}. Hedgehogs too."), false, Some(Dropped::Leak));
        check(&format!("{long}. The Chancellor said so."), false, Some(Dropped::Leak));
        check(&format!("{long}. It gives [31, 4, 15]."), false, Some(Dropped::Leak));
        check(&format!("I'm sorry, but {long}"), false, Some(Dropped::Apology));
        let kept = read(&format!("According to my knowledge, in short: {long}"), false);
        assert!(kept.answer.starts_with("In short: Savi has read"), "{}", kept.answer);
        assert!(read("One. Two. One. Two.", false).truncated);
        let raw = filter.read(&query, Reply { text: "Nonsense.".to_owned(), cut: false });
        assert_eq!(raw.dropped, Some(Dropped::NoSelfIdentification));
        let counters = counters(&[kept, raw]);
        let figure = |name: &str| counters.get(name).copied().unwrap_or_default();
        assert_eq!(["made", "used", "rule/07", "from-given"].map(figure), [2, 1, 1, 1]);
    }
}
