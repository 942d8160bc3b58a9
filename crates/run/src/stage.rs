//! Stages that continue where they were killed.
//!
//! While it runs, a stage appends to `records.jsonl.partial`: a header with the stage's key, then
//! for each unit (a clip, a shard) its records, closed by a mark. A line is handed to the system as
//! soon as it is made. On resume the file is cut behind the last mark, so that a unit is there
//! whole or not at all. At the end all records, ordered by id, go to `records.jsonl` by rename, and
//! `done.json` follows with the key and the counters. A stage whose key has changed is made again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{RunError, RunFolder, write_atomic, write_json_atomic};

/// What a stage stores: anything with a form in JSON, an id and the unit it was made from.
pub trait Record: Serialize + DeserializeOwned + Clone {
    /// Unique within the stage; finished records are ordered by it.
    fn id(&self) -> &str;

    /// The unit (clip, shard) that the record belongs to.
    fn unit(&self) -> &str;
}

/// A pair belongs to the clip that its provenance names.
impl Record for savi_schema::Pair {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        self.provenance.get("clip").and_then(|clip| clip.as_str()).unwrap_or_default()
    }
}

/// `done.json` of a finished stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Version of this layout.
    pub schema: u32,
    /// Name of the stage's folder.
    pub stage: String,
    /// Hash of everything the records depend on.
    pub key: String,
    /// Number of records.
    pub records: usize,
    /// Hash of the records' file.
    pub hash: String,
    /// What was counted: yields, rejections by reason.
    pub counters: BTreeMap<String, u64>,
}

/// One line of the partial file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line<R> {
    /// The header.
    Key(String),
    /// A record of the unit that is closed next.
    Record(R),
    /// Closes a unit.
    Done(String),
}

/// The folder of a stage of a round, `<round><place>-<title>`; reports read it back.
pub fn stage_name(round: u32, place: u32, title: &str) -> String {
    format!("{round}{place}-{title}")
}

const RECORDS: &str = "records.jsonl";
const DONE: &str = "done.json";

/// A stage being worked on, or found finished.
#[derive(Debug)]
pub struct Stage<R> {
    name: String,
    dir: PathBuf,
    key: String,
    units: HashMap<String, Vec<R>>,
    partial: Option<File>,
    done: Option<Done>,
}

impl<R: Record> Stage<R> {
    /// Opens the stage `name` (`NN-what`) of a run folder under its key: a finished stage is read
    /// back, an unfinished one continued, one of another key begun again.
    pub fn open(folder: &RunFolder, name: &str, key: &str) -> Result<Self, RunError> {
        Self::open_in(&folder.path("stages").join(name), name, key)
    }

    /// The same in a folder of its own.
    pub fn open_in(dir: &Path, name: &str, key: &str) -> Result<Self, RunError> {
        fs::create_dir_all(dir).map_err(RunError::io(dir))?;
        let mut stage = Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            key: key.to_owned(),
            units: HashMap::new(),
            partial: None,
            done: None,
        };
        if !stage.read_finished()? {
            stage.resume_partial()?;
        }
        Ok(stage)
    }

    /// Whether the stage was found finished.
    pub fn is_finished(&self) -> bool {
        self.done.is_some()
    }

    /// Whether the records of a unit are there. A finished stage has all its units, those without
    /// records included.
    pub fn has(&self, unit: &str) -> bool {
        self.done.is_some() || self.units.contains_key(unit)
    }

    /// The records of each of `units`, in their order and ordered by id: those that are there are
    /// given back, the others made by `make`, which gets the places in `units` of the missing ones
    /// and returns one list of records for each. New records are with the system when this returns.
    pub fn run<E, F>(&mut self, units: &[&str], make: F) -> Result<Vec<Vec<R>>, E>
    where
        E: From<RunError>,
        F: FnOnce(&[usize]) -> Result<Vec<Vec<R>>, E>,
    {
        let missing: Vec<usize> = (0..units.len()).filter(|&at| !self.has(units[at])).collect();
        if !missing.is_empty() {
            let made = make(&missing)?;
            if made.len() != missing.len() {
                let reason = format!("{} units made {} lists", missing.len(), made.len());
                return Err(self.error(reason).into());
            }
            for (&at, records) in missing.iter().zip(made) {
                self.add_unit(units[at], records)?;
            }
        }
        Ok(units.iter().map(|unit| self.units.get(*unit).cloned().unwrap_or_default()).collect())
    }

    /// Stores the records of a unit and marks the unit done.
    pub fn add_unit(&mut self, unit: &str, mut records: Vec<R>) -> Result<(), RunError> {
        if self.units.contains_key(unit) {
            return Err(self.error(format!("unit {unit} is already there")));
        }
        if let Some(stray) = records.iter().find(|record| record.unit() != unit) {
            let reason = format!("record {} of unit {} came with {unit}", stray.id(), stray.unit());
            return Err(self.error(reason));
        }
        records.sort_by(|a, b| a.id().cmp(b.id()));
        let mut text = String::new();
        for record in &records {
            push_line(&mut text, &self.name, &Line::Record(record))?;
        }
        push_line(&mut text, &self.name, &Line::<R>::Done(unit.to_owned()))?;
        let path = self.partial_path();
        let Some(file) = &mut self.partial else {
            return Err(self.error("it is finished".to_owned()));
        };
        file.write_all(text.as_bytes()).map_err(RunError::io(&path))?;
        self.units.insert(unit.to_owned(), records);
        Ok(())
    }

    /// Orders the records by id, puts them under their final name and marks the stage done.
    /// `count` derives the counters from the records, so that a resume does not change them.
    pub fn finish(
        mut self,
        count: impl FnOnce(&[R]) -> BTreeMap<String, u64>,
    ) -> Result<Vec<R>, RunError> {
        let mut records: Vec<R> = std::mem::take(&mut self.units).into_values().flatten().collect();
        records.sort_by(|a, b| a.id().cmp(b.id()));
        if self.done.is_some() {
            return Ok(records);
        }
        if let Some(twice) = records.windows(2).find(|pair| pair[0].id() == pair[1].id()) {
            return Err(self.error(format!("two records have the id {}", twice[0].id())));
        }
        let mut text = String::new();
        for record in &records {
            push_line(&mut text, &self.name, record)?;
        }
        write_atomic(&self.dir.join(RECORDS), text.as_bytes())?;
        let done = Done {
            schema: 1,
            stage: self.name.clone(),
            key: self.key.clone(),
            records: records.len(),
            hash: blake3::hash(text.as_bytes()).to_hex().to_string(),
            counters: count(&records),
        };
        write_json_atomic(&self.dir.join(DONE), &done)?;
        remove_if_there(&self.partial_path())?;
        Ok(records)
    }

    /// Reads the stage back if it is finished under its key; clears it away under another.
    fn read_finished(&mut self) -> Result<bool, RunError> {
        let done_path = self.dir.join(DONE);
        let text = match fs::read_to_string(&done_path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(RunError::io(&done_path)(error)),
        };
        let done: Done =
            serde_json::from_str(&text).map_err(|e| malformed(&done_path, None, e.to_string()))?;
        if done.key != self.key {
            tracing::warn!("stage {} is made again: what it depends on has changed", self.name);
            // The mark goes first, so that a kill in between leaves no mark without its records.
            remove_if_there(&done_path)?;
            remove_if_there(&self.dir.join(RECORDS))?;
            return Ok(false);
        }
        let path = self.dir.join(RECORDS);
        let bytes = fs::read(&path).map_err(RunError::io(&path))?;
        if blake3::hash(&bytes).to_hex().as_str() != done.hash {
            let reason = "changed since the stage was finished; restore it, or use --fresh";
            return Err(malformed(&path, None, reason.to_owned()));
        }
        for record in read_records::<R>(&path)? {
            self.units.entry(record.unit().to_owned()).or_default().push(record);
        }
        remove_if_there(&self.partial_path())?;
        self.done = Some(done);
        Ok(true)
    }

    /// Opens the partial file for appending, cut behind the last unit that is whole.
    fn resume_partial(&mut self) -> Result<(), RunError> {
        let path = self.partial_path();
        let text = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(RunError::io(&path)(error)),
        };
        let mut whole = 0;
        let mut at = 0;
        let mut open: Vec<R> = Vec::new();
        for (number, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
            at += line.len();
            if !line.ends_with(b"\n") {
                break;
            }
            let parsed: Line<R> = serde_json::from_slice(line)
                .map_err(|e| malformed(&path, Some(number + 1), e.to_string()))?;
            match parsed {
                Line::Key(key) if number == 0 && key == self.key => whole = at,
                Line::Key(_) if number == 0 => {
                    tracing::warn!("stage {} begins again: its inputs changed", self.name);
                    break;
                }
                Line::Record(record) => open.push(record),
                Line::Done(unit) => {
                    self.units.insert(unit, std::mem::take(&mut open));
                    whole = at;
                }
                Line::Key(_) => {
                    let reason = "a second header".to_owned();
                    return Err(malformed(&path, Some(number + 1), reason));
                }
            }
        }
        let io = |error| RunError::io(&path)(error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io)?;
        file.set_len(whole as u64).map_err(io)?;
        file.seek(std::io::SeekFrom::End(0)).map_err(io)?;
        if whole == 0 {
            let mut header = String::new();
            push_line(&mut header, &self.name, &Line::<R>::Key(self.key.clone()))?;
            file.write_all(header.as_bytes()).map_err(io)?;
        }
        self.partial = Some(file);
        Ok(())
    }

    fn partial_path(&self) -> PathBuf {
        self.dir.join(format!("{RECORDS}.partial"))
    }

    fn error(&self, reason: String) -> RunError {
        RunError::Stage { stage: self.name.clone(), reason }
    }
}

/// Reads a file of one record a line.
pub fn read_records<R: DeserializeOwned>(path: &Path) -> Result<Vec<R>, RunError> {
    let file = BufReader::new(File::open(path).map_err(RunError::io(path))?);
    let mut records = Vec::new();
    for (number, line) in file.lines().enumerate() {
        let line = line.map_err(RunError::io(path))?;
        if !line.trim().is_empty() {
            let record = serde_json::from_str(&line)
                .map_err(|error| malformed(path, Some(number + 1), error.to_string()))?;
            records.push(record);
        }
    }
    Ok(records)
}

fn push_line<T: Serialize>(text: &mut String, stage: &str, value: &T) -> Result<(), RunError> {
    let line = serde_json::to_string(value).map_err(|error| RunError::Encode {
        what: format!("a record of stage {stage}"),
        reason: error.to_string(),
    })?;
    text.push_str(&line);
    text.push('\n');
    Ok(())
}

fn malformed(path: &Path, line: Option<usize>, reason: String) -> RunError {
    RunError::Malformed { path: path.to_owned(), line, reason }
}

fn remove_if_there(path: &Path) -> Result<(), RunError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RunError::io(path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Word {
        id: String,
        unit: String,
        text: String,
    }

    impl Record for Word {
        fn id(&self) -> &str {
            &self.id
        }
        fn unit(&self) -> &str {
            &self.unit
        }
    }

    const UNITS: [&str; 4] = ["c", "a", "d", "b"];

    fn words(unit: &str) -> Vec<Word> {
        // Unit `d` has no records: its mark alone must say that it was done.
        let n = if unit == "d" { 0 } else { 3 };
        (0..n)
            .rev()
            .map(|i| Word {
                id: format!("{unit}-{i}"),
                unit: unit.to_owned(),
                text: "\"quoted\"\n\u{1F3A5}".to_owned(),
            })
            .collect()
    }

    fn open(dir: &Path, key: &str) -> Stage<Word> {
        Stage::open_in(dir, "01-words", key).unwrap()
    }

    /// Runs the units that are missing and counts how many were made.
    fn run(dir: &Path, key: &str, units: &[&str]) -> (Stage<Word>, usize) {
        let mut stage = open(dir, key);
        let mut made = 0;
        for unit in units {
            stage
                .run::<RunError, _>(&[unit], |missing| {
                    made += missing.len();
                    Ok(missing.iter().map(|_| words(unit)).collect())
                })
                .unwrap();
        }
        (stage, made)
    }

    fn count(records: &[Word]) -> BTreeMap<String, u64> {
        [("words".to_owned(), records.len() as u64)].into()
    }

    fn snapshot(dir: &Path) -> BTreeMap<String, Vec<u8>> {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
            .collect()
    }

    #[test]
    fn cut_anywhere_and_continued_gives_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("whole");
        run(&whole, "k", &UNITS).0.finish(count).unwrap();
        let expected = snapshot(&whole);
        assert_eq!(expected.keys().collect::<Vec<_>>(), ["done.json", "records.jsonl"]);

        let partial_dir = dir.path().join("partial");
        drop(run(&partial_dir, "k", &UNITS));
        let partial = fs::read(partial_dir.join("records.jsonl.partial")).unwrap();
        for length in 0..=partial.len() {
            let cut = dir.path().join(format!("cut-{length}"));
            fs::create_dir_all(&cut).unwrap();
            fs::write(cut.join("records.jsonl.partial"), &partial[..length]).unwrap();
            run(&cut, "k", &UNITS).0.finish(count).unwrap();
            assert_eq!(snapshot(&cut), expected, "cut at byte {length}");
        }
    }

    #[test]
    fn only_missing_units_are_made() {
        let dir = tempfile::tempdir().unwrap();
        drop(run(dir.path(), "k", &UNITS[..3]));
        let mut places = Vec::new();
        let mut stage = open(dir.path(), "k");
        stage
            .run::<RunError, _>(&["a", "b", "d"], |missing| {
                places = missing.to_vec();
                Ok(vec![words("b")])
            })
            .unwrap();
        assert_eq!(places, [1]);
        let got = stage.run::<RunError, _>(&["a", "d"], |_| unreachable!()).unwrap();
        assert_eq!((got[0].len(), got[1].len()), (3, 0));
        assert_eq!(got[0][0].id, "a-0", "records of a unit are ordered by id");
        stage.finish(count).unwrap();
        let (stage, made) = run(dir.path(), "k", &UNITS);
        assert_eq!(made, 0);
        assert_eq!(stage.finish(count).unwrap().len(), 9);
    }

    #[test]
    fn a_kill_while_finishing_is_made_good() {
        let dir = tempfile::tempdir().unwrap();
        drop(run(dir.path(), "k", &UNITS));
        let partial = fs::read(dir.path().join("records.jsonl.partial")).unwrap();
        open(dir.path(), "k").finish(count).unwrap();
        let expected = snapshot(dir.path());
        // Killed before the mark, and killed before the partial file was removed.
        for mark in [false, true] {
            fs::write(dir.path().join("records.jsonl.partial"), &partial).unwrap();
            if !mark {
                fs::remove_file(dir.path().join("done.json")).unwrap();
            }
            open(dir.path(), "k").finish(count).unwrap();
            assert_eq!(snapshot(dir.path()), expected);
        }
    }

    #[test]
    fn another_key_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        drop(run(dir.path(), "old", &UNITS[..2]));
        assert_eq!(run(dir.path(), "new", &UNITS).1, 4, "partial");
        open(dir.path(), "new").finish(count).unwrap();
        assert_eq!(run(dir.path(), "newest", &UNITS).1, 4, "finished");
    }

    #[test]
    fn changed_records_twins_and_strays_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut stage = open(&dir.path().join("stray"), "k");
        assert!(stage.add_unit("b", words("a")).is_err());
        stage.add_unit("a", words("a")).unwrap();
        assert!(stage.add_unit("a", words("a")).is_err());
        let twin = Word { unit: "b".to_owned(), ..words("a")[0].clone() };
        stage.add_unit("b", vec![twin]).unwrap();
        let error = stage.finish(count).unwrap_err().to_string();
        assert!(error.contains("01-words") && error.contains("a-2"), "{error}");

        run(dir.path(), "k", &UNITS).0.finish(count).unwrap();
        fs::write(dir.path().join("records.jsonl"), "").unwrap();
        let error = Stage::<Word>::open_in(dir.path(), "01-words", "k").unwrap_err();
        assert!(error.to_string().contains("records.jsonl"), "{error}");
    }
}
