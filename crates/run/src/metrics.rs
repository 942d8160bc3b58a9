//! The figures of a run as they come: `metrics.jsonl`, TensorBoard events and `trainer_state.json`.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::{RunError, TrainerState, events, write_atomic, write_json_atomic};

/// Where the state of a training lies in its folder.
const STATE: &str = "trainer_state.json";

/// Logs figures by step. Names are TRL's (`loss`, `grad_norm`, `rewards/margins`, `logps/chosen`).
///
/// `metrics.jsonl` is the source; the TensorBoard file and `trainer_state.json` are written from it.
/// Cloned and scoped values write to the same files.
#[derive(Debug, Clone)]
pub struct Metrics {
    files: Arc<Mutex<Files>>,
    offset: u64,
    extra: Map<String, Value>,
    listener: Option<Listener>,
}

/// Hears every line as it is logged.
#[derive(Clone)]
struct Listener(Arc<Hear>);

type Hear = dyn Fn(&Map<String, Value>) + Send + Sync;

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

#[derive(Debug)]
struct Files {
    lines: Vec<Map<String, Value>>,
    /// None where another process writes.
    disk: Option<Disk>,
    /// Where the newest training stands, in steps of the whole run.
    state: TrainerState,
}

#[derive(Debug)]
struct Disk {
    dir: PathBuf,
    jsonl: File,
    events: File,
}

impl Metrics {
    /// Keeps figures and writes none: for a run whose files another process writes.
    pub fn unwritten() -> Self {
        let files = Files { lines: Vec::new(), disk: None, state: TrainerState::default() };
        Self { files: Arc::new(Mutex::new(files)), offset: 0, extra: Map::new(), listener: None }
    }

    /// Opens the metrics of a run folder, keeping what an earlier start logged.
    pub fn open(run_dir: &Path) -> Result<Self, RunError> {
        fs::create_dir_all(run_dir).map_err(RunError::io(run_dir))?;
        let lines = read_lines(&run_dir.join("metrics.jsonl"))?;
        let state = TrainerState::read(&run_dir.join(STATE))?.unwrap_or_default();
        let disk = Some(Disk::rewrite(run_dir, &lines)?);
        let files = Arc::new(Mutex::new(Files { lines, disk, state }));
        Ok(Self { files, offset: 0, extra: Map::new(), listener: None })
    }

    /// The same files, whose lines `hear` is told once they are written. The run goes on when it returns.
    #[must_use]
    pub fn heard_by(&self, hear: impl Fn(&Map<String, Value>) + Send + Sync + 'static) -> Self {
        Self { listener: Some(Listener(Arc::new(hear))), ..self.clone() }
    }

    /// The same files, for a part of the run that counts its own steps: its step 1 becomes
    /// `offset + 1`, and `extra` (the round, say) is added to each of its lines.
    #[must_use]
    pub fn scoped(&self, offset: u64, extra: Map<String, Value>) -> Self {
        Self { offset, extra, ..self.clone() }
    }

    /// Logs the figures of one step: a line of JSON, and the numbers among them as scalars.
    pub fn log(&self, step: u64, values: &Map<String, Value>) -> Result<(), RunError> {
        let mut line = Map::new();
        line.insert("step".to_owned(), json!(self.offset + step));
        line.extend(self.extra.clone());
        line.extend(values.clone());
        line.insert("time".to_owned(), json!(now()));
        let mut files = self.lock();
        if let Some(disk) = &mut files.disk {
            let text = format!("{}\n", Value::Object(line.clone()));
            let path = disk.dir.join("metrics.jsonl");
            disk.jsonl.write_all(text.as_bytes()).map_err(RunError::io(&path))?;
            if let Some(record) = event(&line) {
                let path = disk.dir.join("tensorboard");
                disk.events.write_all(&record).map_err(RunError::io(&path))?;
            }
        }
        files.lines.push(line.clone());
        drop(files);
        if let Some(Listener(hear)) = &self.listener {
            hear(&line);
        }
        Ok(())
    }

    /// Forgets what this part logged after `step`: called with the step at which training resumes,
    /// so that no step is there twice. Lines of other parts (with other `extra` values) stay.
    pub fn cut_after(&self, step: u64) -> Result<(), RunError> {
        let mut files = self.lock();
        let last = self.offset + step;
        let stays = |line: &&Map<String, Value>| step_of(line) <= last || !self.is_ours(line);
        let kept: Vec<_> = files.lines.iter().filter(stays).cloned().collect();
        if kept.len() == files.lines.len() {
            return Ok(());
        }
        if let Some(disk) = &mut files.disk {
            *disk = Disk::rewrite(&disk.dir, &kept)?;
        }
        files.lines = kept;
        Ok(())
    }

    /// Everything logged so far, in order.
    pub fn lines(&self) -> Vec<Map<String, Value>> {
        self.lock().lines.clone()
    }

    /// Notes where this part's training stands, and gives that state with what was logged on the way,
    /// in the part's own steps.
    pub fn note_state(&self, state: &TrainerState) -> TrainerState {
        let mut files = self.lock();
        files.state = state.after(self.offset);
        let own = files.lines.iter().filter(|line| self.is_ours(line));
        let own = own.filter(|line| step_of(line) > self.offset);
        TrainerState { log_history: history(own, self.offset), ..state.clone() }
    }

    /// Writes `trainer_state.json` of the whole run in the layout of Hugging Face's trainers.
    pub fn write_trainer_state(&self) -> Result<(), RunError> {
        let files = self.lock();
        let Some(disk) = &files.disk else { return Ok(()) };
        let last = files.lines.last();
        let global_step = last.map_or(0, step_of).max(files.state.global_step);
        let epoch = last.and_then(|line| line.get("epoch")).and_then(Value::as_f64);
        let state = TrainerState {
            global_step,
            max_steps: files.state.max_steps.max(global_step),
            epoch: epoch.unwrap_or(files.state.epoch),
            log_history: history(files.lines.iter(), 0),
            ..files.state.clone()
        };
        write_json_atomic(&disk.dir.join(STATE), &state)
    }

    fn is_ours(&self, line: &Map<String, Value>) -> bool {
        self.extra.iter().all(|(name, value)| line.get(name) == Some(value))
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        // The files are appended to line by line; a panic elsewhere leaves them whole.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn rewrite(dir: &Path, lines: &[Map<String, Value>]) -> Result<Self, RunError> {
        let jsonl_path = dir.join("metrics.jsonl");
        let text: String =
            lines.iter().map(|l| format!("{}\n", Value::Object(l.clone()))).collect();
        write_atomic(&jsonl_path, text.as_bytes())?;
        let events_path = dir.join("tensorboard").join("events.out.tfevents.0.savi");
        let start = lines.first().map_or_else(now, time_of);
        let mut records = events::file_version(start);
        records.extend(lines.iter().filter_map(event).flatten());
        write_atomic(&events_path, &records)?;
        let append = |path: &Path| OpenOptions::new().append(true).open(path);
        let jsonl = append(&jsonl_path).map_err(RunError::io(&jsonl_path))?;
        let events = append(&events_path).map_err(RunError::io(&events_path))?;
        Ok(Self { dir: dir.to_owned(), jsonl, events })
    }
}

/// Lines as `log_history` has them: without the clock.
fn history<'a>(
    lines: impl Iterator<Item = &'a Map<String, Value>>,
    offset: u64,
) -> Vec<Map<String, Value>> {
    lines
        .map(|line| {
            let mut entry = line.clone();
            entry.shift_remove("time");
            entry.insert("step".to_owned(), json!(step_of(line) - offset));
            entry
        })
        .collect()
}

fn read_lines(path: &Path) -> Result<Vec<Map<String, Value>>, RunError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RunError::io(path)(error)),
    };
    // A process that was killed may have left half a line at the end.
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .enumerate()
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| RunError::Malformed {
                path: path.to_owned(),
                line: Some(number + 1),
                reason: error.to_string(),
            })
        })
        .collect()
}

fn event(line: &Map<String, Value>) -> Option<Vec<u8>> {
    let scalars: Vec<(&str, f32)> = line
        .iter()
        .filter(|(name, _)| *name != "step" && *name != "time")
        .filter_map(|(name, value)| Some((name.as_str(), value.as_f64()? as f32)))
        .collect();
    (!scalars.is_empty()).then(|| events::scalars(time_of(line), step_of(line), &scalars))
}

fn step_of(line: &Map<String, Value>) -> u64 {
    line.get("step").and_then(Value::as_u64).unwrap_or(0)
}

fn time_of(line: &Map<String, Value>) -> f64 {
    line.get("time").and_then(Value::as_f64).unwrap_or(0.0)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(loss: f64) -> Map<String, Value> {
        json!({"loss": loss, "note": "text"}).as_object().unwrap().clone()
    }

    fn steps(metrics: &Metrics) -> Vec<(u64, f64)> {
        metrics.lines().iter().map(|l| (step_of(l), l["loss"].as_f64().unwrap())).collect()
    }

    #[test]
    fn a_listener_hears_every_line_of_every_part() {
        let dir = tempfile::tempdir().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&heard);
        let metrics = Metrics::open(dir.path())
            .unwrap()
            .heard_by(move |line| told.lock().unwrap().push(step_of(line)));
        metrics.log(1, &figures(0.5)).unwrap();
        metrics.scoped(1, Map::new()).log(1, &figures(0.25)).unwrap();
        assert_eq!(*heard.lock().unwrap(), [1, 2]);
        assert_eq!(steps(&metrics), [(1, 0.5), (2, 0.25)]);
    }

    #[test]
    fn a_resumed_part_has_every_step_once() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::open(dir.path()).unwrap();
        let round = |n: u64| json!({"round": n}).as_object().unwrap().clone();
        let first = metrics.scoped(0, round(1));
        (1..=3).for_each(|step| first.log(step, &figures(0.5)).unwrap());
        let second = metrics.scoped(3, round(2));
        (1..=2).for_each(|step| second.log(step, &figures(0.25)).unwrap());
        drop((metrics, first, second));
        // Killed while writing a line, then resumed behind step 1 of the second part.
        let path = dir.path().join("metrics.jsonl");
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"step\": 6, \"lo");
        fs::write(&path, text).unwrap();
        let metrics = Metrics::open(dir.path()).unwrap();
        let second = metrics.scoped(3, round(2));
        metrics.scoped(0, round(1)).cut_after(3).unwrap();
        second.cut_after(1).unwrap();
        second.log(2, &figures(0.125)).unwrap();
        let expected = [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.25), (5, 0.125)];
        assert_eq!(steps(&metrics), expected);
        assert_eq!(steps(&Metrics::open(dir.path()).unwrap()), expected);
        assert_eq!(metrics.lines()[4]["round"], 2);

        metrics.write_trainer_state().unwrap();
        let state = fs::read_to_string(dir.path().join("trainer_state.json")).unwrap();
        let state: Value = serde_json::from_str(&state).unwrap();
        assert_eq!(state["global_step"], 5);
        assert_eq!(state["log_history"][3]["loss"], 0.25);
        assert!(state["log_history"][0].get("time").is_none());
    }
}
