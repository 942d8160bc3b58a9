//! The part of the page about Direct Nash Optimization: what its iterations were like, and some prompts with their
//! candidates. Like the rest of the page it reads files by their field names; a run of another method has no such part.

use std::fs;

use minijinja::{Environment, context};
use serde::Serialize;
use serde_json::Value;

use crate::ReportError;
use crate::load::Run;
use crate::words::{number, percent, reason};

/// Prompts that are shown of each iteration.
const SHOWN: usize = 3;

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    cells: Vec<Option<String>>,
}

#[derive(Debug, Serialize)]
struct Best {
    iteration: u64,
    metric: String,
    value: String,
}

#[derive(Debug, Serialize)]
struct Sample {
    iteration: u32,
    prompt: String,
    words: String,
    candidates: Vec<CandidateView>,
    raw: Vec<String>,
    dropped: Option<String>,
}

#[derive(Debug, Serialize)]
struct CandidateView {
    text: String,
    writer: String,
    points: Option<String>,
    role: Option<&'static str>,
    degenerate: bool,
}

/// The part as HTML; `None` where the folder has no iterations.
pub(crate) fn part(run: &mut Run) -> Result<Option<String>, ReportError> {
    let Some(Value::Array(iterations)) = read(run, "dynamics.json") else { return Ok(None) };
    if iterations.is_empty() {
        return Ok(None);
    }
    let best = read(run, "best.json").and_then(|best| {
        Some(Best {
            iteration: best.get("iteration")?.as_u64()?,
            metric: best.get("metric")?.as_str()?.to_owned(),
            value: percent(best.get("value")?.as_f64()?),
        })
    });
    let rows: Vec<Row> = iterations.iter().map(row).collect();
    let samples: Vec<Sample> = iterations
        .iter()
        .filter_map(|row| row.get("iteration")?.as_u64())
        .flat_map(|iteration| samples(run, iteration as u32))
        .collect();
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    // The name's ending makes the engine escape every value.
    environment.add_template("iterations.html", include_str!("iterations.html"))?;
    let page = environment.get_template("iterations.html")?;
    Ok(Some(page.render(context! { rows, best, samples })?))
}

/// A file of the folder, where it is there; one that cannot be read is said in a note.
fn read(run: &mut Run, name: &str) -> Option<Value> {
    let text = fs::read_to_string(run.dir.join(name)).ok()?;
    let read = serde_json::from_str(&text);
    read.map_err(|error| run.notes.push(format!("{name} cannot be read: {error}."))).ok()
}

fn row(told: &Value) -> Row {
    let figure = |name: &str| told.get(name).and_then(Value::as_f64);
    let word = |at: usize| told.pointer(&format!("/words/{at}")).and_then(Value::as_f64);
    let pairs = |kind: &str| {
        let count = told.pointer(&format!("/pairs/{kind}")).and_then(Value::as_u64);
        count.map(|count| count.to_string())
    };
    let words = word(0).zip(word(1)).map(|(mean, sd)| format!("{}±{}", number(mean), number(sd)));
    Row {
        name: told.get("iteration").map(Value::to_string).unwrap_or_default(),
        cells: vec![
            told.get("inputs").map(Value::to_string),
            words,
            figure("degenerate").map(percent),
            figure("best_of_n_win_rate").map(percent),
            figure("mean_wins").map(number),
            figure("student_score").map(number),
            figure("teacher_score").map(number),
            pairs("teacher-over-student"),
            pairs("student-over-teacher"),
            pairs("student-over-student"),
        ],
    }
}

/// The first prompts of an iteration with all that was written and said.
fn samples(run: &Run, iteration: u32) -> Vec<Sample> {
    let prompts = run.records(0, "prompts");
    let decisions = run.records(iteration, "pairs");
    decisions.iter().take(SHOWN).map(|decision| sample(run, prompts, iteration, decision)).collect()
}

fn sample(run: &Run, prompts: &[Value], iteration: u32, decision: &Value) -> Sample {
    let id = str_of(decision, "id");
    let annotation =
        run.records(iteration, "annotate").iter().find(|annotation| str_of(annotation, "id") == id);
    let pairs = decision.get("pairs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is = |name: &str, candidate: &str| {
        let place = format!("/pair/provenance/{name}");
        pairs.iter().any(|pair| pair.pointer(&place).and_then(Value::as_str) == Some(candidate))
    };
    let view = |candidate: &Value| {
        let name = str_of(candidate, "id");
        let place = annotation.and_then(|annotation| {
            let shown = annotation.get("candidates")?.as_array()?;
            shown.iter().position(|shown| shown.as_str() == Some(name))
        });
        let points = annotation.zip(place).and_then(|(annotation, place)| {
            annotation.get("scores")?.get(place)?.as_f64().map(number)
        });
        CandidateView {
            text: str_of(candidate, "text").trim().to_owned(),
            writer: str_of(candidate, "writer").to_owned(),
            points,
            role: match (is("chosen", name), is("rejected", name)) {
                (true, false) => Some("chosen"),
                (false, true) => Some("rejected"),
                _ => None,
            },
            degenerate: candidate.get("degenerate") == Some(&Value::Bool(true)),
        }
    };
    let written = ["sample", "teacher"].into_iter().flat_map(|stage| run.records(iteration, stage));
    let readings = annotation.and_then(|annotation| annotation.get("readings")?.as_array());
    let prompt = prompts.iter().find(|prompt| str_of(prompt, "id") == id);
    Sample {
        iteration,
        prompt: id.to_owned(),
        words: prompt.map(words).unwrap_or_default(),
        candidates: written.filter(|one| str_of(one, "prompt") == id).map(view).collect(),
        raw: readings.into_iter().flatten().map(|one| str_of(one, "raw").to_owned()).collect(),
        dropped: decision.get("dropped").and_then(Value::as_str).map(reason),
    }
}

/// The words of a prompt's turns.
fn words(prompt: &Value) -> String {
    let turns = prompt.pointer("/record/prompt").and_then(Value::as_array);
    let parts = turns.into_iter().flatten().filter_map(|turn| turn.get("content")?.as_array());
    let texts: Vec<&str> = parts.flatten().filter_map(|part| part.get("text")?.as_str()).collect();
    texts.join("\n")
}

fn str_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::load::Stage;

    fn stage(round: u32, title: &str, records: Vec<Value>) -> Stage {
        Stage { round, title: title.to_owned(), records, ..Stage::default() }
    }

    #[test]
    fn figures_and_candidates_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run { dir: dir.path().to_owned(), ..Run::default() };
        assert!(part(&mut run).unwrap().is_none());
        let told = json!([{"iteration": 1, "inputs": 12, "words": [20.5, 3.0], "degenerate": 0.25,
            "student_score": 4.5, "pairs": {"teacher-over-student": 7}}]);
        fs::write(dir.path().join("dynamics.json"), told.to_string()).unwrap();
        let best = json!({"iteration": 1, "metric": "win_rate", "value": 0.625});
        fs::write(dir.path().join("best.json"), best.to_string()).unwrap();
        let prompt =
            json!({"id": "p", "record": {"prompt": [{"content": [{"text": "How <many>?"}]}]}});
        let candidate = |id: &str, text: &str, writer: &str| json!({"id": id, "prompt": "p", "writer": writer, "text": text});
        let pair = json!({"pair": {"provenance": {"chosen": "p/teacher", "rejected": "p/s0"}}});
        run.stages = vec![
            stage(0, "prompts", vec![prompt]),
            stage(1, "teacher", vec![candidate("p/teacher", "Seven.", "teacher")]),
            stage(1, "sample", vec![candidate("p/s0", "Six.", "student")]),
            stage(
                1,
                "annotate",
                vec![json!({"id": "p", "candidates": ["p/s0", "p/teacher"],
                "scores": [1.0, 6.0], "readings": [{"raw": "{\"1\": so}"}]})],
            ),
            stage(1, "pairs", vec![json!({"id": "p", "pairs": [pair]})]),
        ];
        let html = part(&mut run).unwrap().unwrap();
        for said in [
            "How &lt;many&gt;?",
            "20.50±3.00",
            ">25.0<",
            ">7<",
            "win rate 62.5 %",
            "Seven.",
            "class=\"chosen\"",
            "class=\"rejected\"",
            "1.00",
            "so}",
        ] {
            assert!(html.contains(said), "{said}: {html}");
        }
        fs::write(dir.path().join("dynamics.json"), "[").unwrap();
        assert!(part(&mut run).unwrap().is_none());
        assert!(run.notes[0].contains("dynamics.json"));
    }
}
