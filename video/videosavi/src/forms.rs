//! The two published systems, each as the order of its stages.

use savi_run::{Interrupt, Progress, Stage};

use crate::answer::{answer, problem};
use crate::ask::{ask, counters};
use crate::critique::{criticise, revise};
use crate::judge::judge;
use crate::pair::{pair_judged, pair_revised};
use crate::round::{Round, pick};
use crate::{
    Answer, ClipRecord, CritiqueRecord, Decision, Dropped, Error, Form, Judgement, Question,
    Revision,
};

/// Generates a round's decisions. The stages run clip-major: a few clips at a time go through all
/// of them, so that a model reads a clip once, and each stage marks each clip done, so that a
/// killed run continues at the clip where it was.
pub(crate) fn generate(round: &Round) -> Result<Vec<Decision>, Error> {
    match round.config.form {
        Form::Judge => generate_judged(round),
        Form::Critique => generate_revised(round),
    }
}

/// VideoSAVi v1: questions, several answers each, self-judgement, best against worst.
fn generate_judged(round: &Round) -> Result<Vec<Decision>, Error> {
    let config = round.config;
    let (mut asking, mut answering, key) = open_first_stages(round)?;
    let key = key
        .with("judge", &config.judge)
        .with("judge_video", &config.judge_video)
        .with("hide_reasons", &config.hide_reasons)
        .with("rules", &savi_judge::RULES)
        .with("prompt", round.prompts.id("judge"));
    let mut judging: Stage<Judgement> = round.stage(3, "judge", &key)?;
    let key = key
        .with("filters", &config.filters)
        .with("clip_check", &round.space.map(|space| (space.fingerprint, &config.clip_check)));
    let mut pairing: Stage<Decision> = round.stage(4, "pair", &key)?;

    let mut progress = progress(round, &pairing);
    let mut done = 0;
    for clips in round.clips.chunks(config.clips_at_once) {
        let ids: Vec<&str> = clips.iter().map(|clip| clip.id.as_str()).collect();
        let step = |words: &str, progress: &mut Progress| step(round, words, progress);
        step("asking", &mut progress)?;
        let questions = asking.run(&ids, |at| ask(round, &clips_at(clips, at)))?;
        step("answering", &mut progress)?;
        let answers =
            answering.run(&ids, |at| answer(round, &clips_at(clips, at), &pick(&questions, at)))?;
        step("judging", &mut progress)?;
        let judgements = judging.run(&ids, |at| {
            judge(round, &clips_at(clips, at), &pick(&questions, at), &pick(&answers, at))
        })?;
        let decisions = pairing.run(&ids, |at| {
            pair_judged(
                round,
                &clips_at(clips, at),
                &pick(&questions, at),
                &pick(&answers, at),
                &pick(&judgements, at),
            )
        })?;
        done += clips.len();
        advance(&mut progress, done, &decisions);
    }
    progress.finish();

    asking.finish(|made| counters(made.iter().map(|question| question.dropped)))?;
    answering.finish(|made| counters(made.iter().map(|answer| answer.dropped)))?;
    judging.finish(|made| {
        let unread =
            |judgement: &Judgement| judgement.scores.is_none().then_some(Dropped::Unparsed);
        let mut counters = counters(made.iter().map(unread));
        let readings = || made.iter().flat_map(|judgement| &judgement.readings);
        let unread = readings().filter(|reading| reading.parsed.is_none()).count();
        counters.insert("readings".to_owned(), readings().count() as u64);
        counters.insert("readings/unparsed".to_owned(), unread as u64);
        counters
    })?;
    finish_pairs(pairing)
}

/// VideoSAVi v2 and v3: questions, an initial answer, its critique, its revision.
fn generate_revised(round: &Round) -> Result<Vec<Decision>, Error> {
    let config = round.config;
    let (mut asking, mut answering, key) = open_first_stages(round)?;
    let key = key
        .with("critique", &config.critique)
        .with("judge_video", &config.judge_video)
        .with("hide_reasons", &config.hide_reasons)
        .with("rules", &savi_judge::RULES)
        .with("prompt", round.prompts.id("critique"));
    let mut criticising: Stage<CritiqueRecord> = round.stage(3, "critique", &key)?;
    let key = key
        .with("revise", &config.revise)
        .with("filters", &config.filters)
        .with("prompt", round.prompts.id("revise"));
    let mut revising: Stage<Revision> = round.stage(4, "revise", &key)?;
    let mut pairing: Stage<Decision> = round.stage(5, "pair", &key.clone().with("then", "pair"))?;

    let mut progress = progress(round, &pairing);
    let mut done = 0;
    for clips in round.clips.chunks(config.clips_at_once) {
        let ids: Vec<&str> = clips.iter().map(|clip| clip.id.as_str()).collect();
        let step = |words: &str, progress: &mut Progress| step(round, words, progress);
        step("asking", &mut progress)?;
        let questions = asking.run(&ids, |at| ask(round, &clips_at(clips, at)))?;
        step("answering", &mut progress)?;
        let answers =
            answering.run(&ids, |at| answer(round, &clips_at(clips, at), &pick(&questions, at)))?;
        step("criticising", &mut progress)?;
        let critiques = criticising.run(&ids, |at| {
            criticise(round, &clips_at(clips, at), &pick(&questions, at), &pick(&answers, at))
        })?;
        step("revising", &mut progress)?;
        let revisions = revising.run(&ids, |at| {
            revise(
                round,
                &clips_at(clips, at),
                &pick(&questions, at),
                &pick(&answers, at),
                &pick(&critiques, at),
            )
        })?;
        let decisions = pairing.run(&ids, |at| {
            pair_revised(
                round,
                &clips_at(clips, at),
                &pick(&questions, at),
                &pick(&answers, at),
                &pick(&critiques, at),
                &pick(&revisions, at),
            )
        })?;
        done += clips.len();
        advance(&mut progress, done, &decisions);
    }
    progress.finish();

    asking.finish(|made| counters(made.iter().map(|question| question.dropped)))?;
    answering.finish(|made| counters(made.iter().map(|answer| answer.dropped)))?;
    criticising.finish(|made| {
        let unread = |c: &CritiqueRecord| c.parsed.is_none().then_some(Dropped::Unparsed);
        let mut counters = counters(made.iter().map(unread));
        for critique in made.iter().filter_map(|critique| critique.parsed.as_ref()) {
            let name = format!("verdict/{}", critique.verdict.word());
            *counters.entry(name).or_default() += 1;
        }
        counters
    })?;
    let cut_off = config.filters.cut_off;
    revising.finish(|made| counters(made.iter().map(|made| problem(&made.drawn, cut_off))))?;
    finish_pairs(pairing)
}

type FirstStages = (Stage<Question>, Stage<Answer>, savi_run::Key);

/// Opens asking and answering, which both forms share, and gives the key that later stages chain.
fn open_first_stages(round: &Round) -> Result<FirstStages, Error> {
    let config = round.config;
    let key = round
        .key("generate")
        .with("form", &config.form)
        .with("questions", &config.questions)
        .with("filters", &config.filters)
        .with("prompt", round.prompts.id("ask"));
    let key = match config.questions.describe {
        Some(_) => key.with("describe", round.prompts.id("describe")),
        None => key,
    };
    let asking = round.stage(1, "ask", &key)?;
    let key = key.with("answers", &config.answers).with("prompt", round.prompts.id("answer"));
    let answering = round.stage(2, "answer", &key)?;
    Ok((asking, answering, key))
}

fn finish_pairs(pairing: Stage<Decision>) -> Result<Vec<Decision>, Error> {
    let decisions = pairing.finish(|made| {
        let mut counters = counters(made.iter().map(|decision| decision.dropped));
        let swapped = |decision: &&Decision| {
            decision.pair.as_ref().is_some_and(|pair| pair.provenance.contains_key("swapped"))
        };
        counters.insert("swapped".to_owned(), made.iter().filter(swapped).count() as u64);
        counters
    })?;
    Ok(decisions)
}

fn clips_at<'a>(clips: &[&'a ClipRecord], places: &[usize]) -> Vec<&'a ClipRecord> {
    places.iter().map(|&place| clips[place]).collect()
}

fn progress(round: &Round, pairing: &Stage<Decision>) -> Progress {
    let label = format!("round {}, clips", round.number);
    let mut progress = Progress::new(label, round.clips.len() as u64);
    let there = round.clips.iter().filter(|clip| pairing.has(&clip.id)).count();
    progress.resume_at(there as u64);
    progress
}

fn step(round: &Round, words: &str, progress: &mut Progress) -> Result<(), Error> {
    progress.note(words);
    Ok(Interrupt::check(round.interrupt)?)
}

fn advance(progress: &mut Progress, done: usize, decisions: &[Vec<Decision>]) {
    let pairs = decisions.iter().flatten().filter(|decision| decision.pair.is_some()).count();
    progress.note(format!("{pairs} pairs from the last {} clips", decisions.len()));
    progress.reach(done as u64);
}
