//! Several files as one data set: which, how much of each, and what happens to rows that cannot be used.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::records::Ids;
use crate::{DataError, Row, Rows};

/// A file of records and the part of it that is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file: JSONL, JSON, CSV, TSV or Parquet.
    pub path: PathBuf,
    /// Its layout; that of all files, or what its first row tells, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// How much of it is taken: 0.25 is a quarter of its records, 2 is all of them twice.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub fraction: f64,
    /// At most this many records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,
}

fn one() -> f64 {
    1.0
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

impl Source {
    fn whole(path: &str) -> Self {
        Self { path: path.into(), layout: None, fraction: 1.0, max_samples: None }
    }

    fn is_whole(&self) -> bool {
        self.layout.is_none() && self.fraction == 1.0 && self.max_samples.is_none()
    }
}

/// The files of a training: in a config a path, a table, or a list of these.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    sources: Vec<Source>,
    /// Whether it was written without a list.
    single: bool,
}

impl Data {
    /// The files in order.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Refuses what cannot be carried out.
    pub fn validate(&self) -> Result<(), String> {
        if self.sources.is_empty() {
            return Err("give at least one file".to_owned());
        }
        for source in &self.sources {
            let path = source.path.display();
            if !(source.fraction.is_finite() && source.fraction > 0.0 && source.fraction <= 1e3) {
                let fraction = source.fraction;
                return Err(format!(
                    "{path}: fraction = {fraction}: must be above 0, at most 1000"
                ));
            }
            if source.max_samples == Some(0) {
                return Err(format!("{path}: max_samples = 0 leaves nothing"));
            }
        }
        Ok(())
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.sources.as_slice() {
            [source] if self.single => Entry(source.clone()).serialize(serializer),
            sources => serializer.collect_seq(sources.iter().map(|source| Entry(source.clone()))),
        }
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyForm;
        impl<'de> Visitor<'de> for AnyForm {
            type Value = Data;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, a table with a path, or a list of paths and tables")
            }

            fn visit_str<E: Error>(self, path: &str) -> Result<Data, E> {
                Ok(Data { sources: vec![Source::whole(path)], single: true })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Data, A::Error> {
                let source = Source::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Data { sources: vec![source], single: true })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Data, A::Error> {
                let mut sources = Vec::new();
                while let Some(Entry(source)) = list.next_element()? {
                    sources.push(source);
                }
                Ok(Data { sources, single: false })
            }
        }
        deserializer.deserialize_any(AnyForm)
    }
}

/// One of a list.
struct Entry(Source);

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.is_whole() {
            true => self.0.path.serialize(serializer),
            false => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let data = Data::deserialize(deserializer)?;
        match <[Source; 1]>::try_from(data.sources) {
            Ok([source]) if data.single => Ok(Self(source)),
            _ => Err(D::Error::custom("a list within a list of files")),
        }
    }
}

/// What is done with a row that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadRows {
    /// Reading ends with the row and the reason.
    #[default]
    Error,
    /// The row is left out and counted.
    Skip,
}

impl BadRows {
    /// Whether it is the usual.
    pub fn is_error(&self) -> bool {
        *self == Self::Error
    }
}

/// What reading gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Read<T> {
    /// The records.
    pub records: Vec<T>,
    /// For each row that was left out, file, row and reason.
    pub skipped: Vec<String>,
}

/// A record that a mixture can name.
pub trait Named: Clone {
    /// Its id.
    fn id_mut(&mut self) -> &mut String;
}

/// Reads a file's rows with `convert`, which also says what is wrong with a row. Ids are unique within the file.
/// Where a stream is broken (an array without its end) it ends in an error in any case.
pub(crate) fn read_rows<T: Named>(
    path: &Path,
    bad_rows: BadRows,
    mut convert: impl FnMut(&Row) -> Result<T, DataError>,
) -> Result<Read<T>, DataError> {
    let mut read = Read { records: Vec::new(), skipped: Vec::new() };
    let mut ids = Ids::default();
    for row in Rows::open(path)? {
        let row = row?;
        let taken = convert(&row).and_then(|mut record| {
            ids.take(&row, record.id_mut())?;
            Ok(record)
        });
        match taken {
            Ok(record) => read.records.push(record),
            Err(error) if bad_rows == BadRows::Skip => read.skipped.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Reads all files and takes of each what its source says. Which records a fraction takes follows from `seed` and
/// the place of the file alone; records stay in their order. Where there are several files, ids name theirs, and
/// where records are taken again the later ones say so.
pub fn read_mixture<T: Named, E>(
    data: &Data,
    seed: u64,
    mut read: impl FnMut(&Source) -> Result<Read<T>, E>,
) -> Result<Read<T>, E> {
    let mut all = Read { records: Vec::new(), skipped: Vec::new() };
    for (place, source) in data.sources.iter().enumerate() {
        let Read { mut records, skipped } = read(source)?;
        all.skipped.extend(skipped);
        if data.sources.len() > 1 {
            for record in &mut records {
                let id = record.id_mut();
                *id = format!("{}: {id}", source.path.display());
            }
        }
        let wanted = (records.len() as f64 * source.fraction).round() as usize;
        let wanted = wanted.clamp(records.len().min(1), source.max_samples.unwrap_or(usize::MAX));
        let (rounds, rest) = match records.len() {
            0 => (0, 0),
            count => (wanted / count, wanted % count),
        };
        for round in 0..rounds {
            all.records.extend(records.iter().map(|record| again(record, round)));
        }
        for at in chosen(records.len(), rest, seed, place as u64) {
            all.records.push(again(&records[at], rounds));
        }
    }
    Ok(all)
}

fn again<T: Named>(record: &T, round: usize) -> T {
    let mut record = record.clone();
    if round > 0 {
        let id = record.id_mut();
        *id = format!("{id} (again {round})");
    }
    record
}

/// `count` of `records` places, in order: those with the smallest numbers of a generator that knows only the
/// seed, the file's place and the record's.
fn chosen(records: usize, count: usize, seed: u64, place: u64) -> Vec<usize> {
    // SplitMix64 (Steele, Lea and Flood 2014), whose output function mixes a counter well enough to sort by.
    let mixed = |value: u64| {
        let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    };
    let start = mixed(mixed(seed) ^ place);
    let mut order: Vec<usize> = (0..records).collect();
    order.sort_by_key(|&at| (mixed(start ^ mixed(at as u64)), at));
    order.truncate(count);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Named for String {
        fn id_mut(&mut self) -> &mut String {
            self
        }
    }

    fn data(text: &str) -> Result<Data, String> {
        #[derive(Deserialize)]
        struct Config {
            data: Data,
        }
        toml::from_str::<Config>(text).map(|c| c.data).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn every_form_comes_back_as_it_was_written() {
        let single = data("data = 'a.jsonl'").unwrap();
        assert_eq!(serde_json::to_string(&single).unwrap(), r#""a.jsonl""#);
        let list = data("data = ['a.jsonl', {path = 'b.csv', fraction = 0.5}]").unwrap();
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(text, r#"["a.jsonl",{"path":"b.csv","fraction":0.5}]"#);
        assert_eq!(serde_json::from_str::<Data>(&text).unwrap(), list);
        for (text, error) in [
            ("data = 3", "a path, a table"),
            ("data = [{path = 'a', fractoin = 1}]", "unknown field `fractoin`"),
            ("data = [['a']]", "a list within a list"),
        ] {
            let told = data(text).unwrap_err();
            assert!(told.contains(error), "{told}");
        }
        for text in ["data = []", "data = {path = 'a', fraction = 0.0}"] {
            assert!(data(text).unwrap().validate().is_err(), "{text}");
        }
    }

    #[test]
    fn fractions_take_the_same_records_for_a_seed() {
        let mixture = |seed, text: &str| {
            let read = |source: &Source| -> Result<Read<String>, ()> {
                let records = (0..8).map(|at| format!("{}{at}", source.path.display())).collect();
                Ok(Read { records, skipped: vec!["x".to_owned()] })
            };
            read_mixture(&data(text).unwrap(), seed, read).unwrap()
        };
        let text = "data = [{path = 'a', fraction = 0.5}, {path = 'b', fraction = 1.25}]";
        let read = mixture(1, text);
        assert_eq!((read.records.len(), read.skipped.len()), (4 + 10, 2));
        assert_eq!(mixture(1, text), read);
        assert_ne!(mixture(2, text), read);
        assert!(read.records[..4].is_sorted() && read.records[0].starts_with("a: a"));
        assert!(read.records[12].ends_with("(again 1)"), "{:?}", read.records);
        assert_eq!(mixture(1, "data = {path = 'a', max_samples = 3}").records.len(), 3);
        let whole: Vec<String> = (0..8).map(|at| format!("a{at}")).collect();
        assert_eq!(mixture(3, "data = 'a'").records, whole);
    }
}
