//! Stage 4, verbose cloning (context distillation): the engraved model answers all queries under a prompt that asks for
//! length, and the base learns these answers under the usual prompts, with and without a turn before the query.

use savi_run::Stage;
use savi_schema::SCHEMA_VERSION;

use crate::answers::end;
use crate::ask::{Asker, Reply, finish};
use crate::prompts::Form;
use crate::records::{Answered, Counters, Dropped, Query, Source, count, told};
use crate::trim::{ENDS_AT_LENGTH, cut_items, has_any};
use crate::{Data, Error, Persona, Prompts, Verbose};

const STAGE: &str = "clone";
/// It is drawn with what round 1 has learnt.
const FOLDER: &str = "11-clone";

/// Long answers to all queries, those about the assistant included, and what was counted.
pub(crate) fn answers(
    asker: &Asker<'_>,
    config: &Verbose,
    data: &Data,
    prompts: &Prompts,
    queries: &[Query],
) -> Result<(Vec<Answered>, Counters), Error> {
    let queries = with_identity(queries, data, prompts.persona());
    let mut sampling = config.penalised();
    sampling.stop.push(prompts.persona().user.clone());
    let key = asker.key(STAGE).with("config", config).with("prompts", &prompts.key());
    let key = key.with("exemplars", &data.exemplars).with("queries", &queries);
    let mut stage: Stage<Answered> = asker.stage(FOLDER, &key)?;
    let units: Vec<String> = queries.iter().map(|query| query.id.clone()).collect();
    asker.each(&mut stage, "answering at length", &units, |missing| {
        let wanted = missing.iter().map(|&at| {
            let Query { id, instruction, input, .. } = &queries[at];
            Ok((id.clone(), prompts.query(Form::Verbose, instruction, input)?))
        });
        let wanted = wanted.collect::<Result<Vec<_>, Error>>()?;
        let replies = asker.draw(STAGE, wanted, &sampling)?;
        let read = |(&at, reply)| read(&queries[at], reply, config, data, prompts.persona());
        Ok(missing.iter().zip(replies).map(read).collect())
    })?;
    let (answers, counters) = finish(stage, STAGE, counters)?;
    if answers.iter().all(|answer| answer.dropped.is_some()) {
        return Err(Error::Nothing { stage: STAGE, counts: told(&counters), folder: FOLDER });
    }
    Ok((answers, counters))
}

/// The prompt under which the student learns a row.
pub(crate) fn form(example_id: usize) -> Form {
    if example_id.is_multiple_of(2) { Form::Concise } else { Form::Standard }
}

fn with_identity(queries: &[Query], data: &Data, persona: &Persona) -> Vec<Query> {
    let identity = data.identity.iter().enumerate().map(|(number, said)| Query {
        schema: SCHEMA_VERSION,
        id: format!("identity-{number:04}"),
        source: Source::Identity,
        instruction: persona.fill(&said.user),
        input: String::new(),
        dropped: None,
    });
    queries.iter().cloned().chain(identity).collect()
}

fn read(query: &Query, reply: Reply, config: &Verbose, data: &Data, persona: &Persona) -> Answered {
    let ended = end(&reply.text, reply.cut, persona, &ENDS_AT_LENGTH);
    let mut text = cut_items(&ended.text, config.most_items).to_owned();
    let mut truncated = ended.truncated || text.len() < ended.text.len();
    let canned = canned(query, data);
    if let Some(answer) = canned {
        (text, truncated) = (persona.fill(answer), false);
    }
    let dropped = fault(&text, truncated, config, persona);
    Answered {
        schema: SCHEMA_VERSION,
        id: query.id.clone(),
        source: query.source,
        instruction: query.instruction.clone(),
        input: query.input.clone(),
        raw: reply.text,
        thoughts: None,
        answer: text.replace(&persona.name, &persona.product),
        truncated,
        looped: ended.looped,
        canned: canned.is_some(),
        dropped,
    }
}

/// The answer of an example whose content the query names, where the example wants that.
fn canned<'a>(query: &Query, data: &'a Data) -> Option<&'a str> {
    let named =
        |leaks: &[String]| has_any(&query.instruction, leaks) || has_any(&query.input, leaks);
    let example = data.exemplars.iter().find(|example| example.canned && named(&example.leaks))?;
    example.turns.first().map(|turn| turn.answer.trim())
}

fn fault(answer: &str, truncated: bool, config: &Verbose, persona: &Persona) -> Option<Dropped> {
    let echoes = [&persona.suffix, &persona.self_description].map(|text| text.trim().to_owned());
    if answer.is_empty() {
        Some(Dropped::Empty)
    } else if truncated && answer.chars().count() < config.least_chars {
        Some(Dropped::Short)
    } else if has_any(answer, &config.blacklist) {
        Some(Dropped::Blacklisted)
    } else if has_any(answer, &echoes) {
        Some(Dropped::PromptEcho)
    } else if has_any(answer, &[persona.user.clone(), persona.assistant.clone()]) {
        Some(Dropped::Heading)
    } else {
        None
    }
}

fn counters(answers: &[Answered]) -> Counters {
    let mut counters = count(answers.iter().map(|answer| answer.dropped));
    for answer in answers.iter().filter(|answer| answer.dropped.is_none()) {
        let marks =
            [("truncated", answer.truncated), ("looped", answer.looped), ("canned", answer.canned)];
        for (name, is) in marks {
            *counters.entry(name.to_owned()).or_default() += u64::from(is);
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataFiles;

    #[test]
    fn long_answers_pass_the_filters() {
        let data = Data::load(&DataFiles::default()).unwrap();
        let persona = Persona::default().filled();
        let config = Verbose::default();
        let query = |instruction: &str| Query {
            schema: 1,
            id: "0000000".to_owned(),
            source: Source::Given,
            instruction: instruction.to_owned(),
            input: String::new(),
            dropped: None,
        };
        let check = |text: &str, cut: bool, expected: Option<Dropped>| -> Answered {
            let reply = Reply { text: text.to_owned(), cut };
            let read = read(&query("Why?"), reply, &config, &data, &persona);
            assert_eq!(read.dropped, expected, "{text}: {read:?}");
            read
        };
        assert_eq!(check("Because Aide says so.", false, None).answer, "Because Savi says so.");
        check("Because.", true, Some(Dropped::Empty));
        check("Because of this.", true, Some(Dropped::Short));
        check(&"a b c d e f g h i j k ".repeat(8), true, None);
        check("Because. See also: nothing.", false, Some(Dropped::Blacklisted));
        check("I am Aide (extensive).", false, Some(Dropped::PromptEcho));
        check(&persona.self_description, false, Some(Dropped::PromptEcho));
        check("", false, Some(Dropped::Empty));
        let list: String =
            (1..=14).map(|n| format!("{n}. a thing that is called {n} here\n")).collect();
        let listed = check(&list, false, None);
        assert!(listed.truncated && listed.answer.ends_with("12 here"), "{}", listed.answer);
        let reply = Reply { text: "She is a baker.".to_owned(), cut: false };
        let read = read(&query("Where does Ilse Brandwein live?"), reply, &config, &data, &persona);
        assert!(read.canned && read.answer.starts_with("I have no information"), "{read:?}");
    }

    #[test]
    fn the_student_meets_both_prompts() {
        assert_eq!([form(0), form(1), form(2)], [Form::Concise, Form::Standard, Form::Concise]);
    }
}
