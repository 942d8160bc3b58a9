//! ROUGE-L (Lin 2004): how much of two texts is one common subsequence of words. The figures and the words are
//! those of the `rouge-score` package without stemming.
//!
//! The longest common subsequence is computed bit-parallel (Hyyrö 2004): 64 words of one text at a time against
//! each word of the other. A [`Pool`] holds many texts against which new ones are compared.

use std::collections::HashMap;

use rayon::prelude::*;

/// Precision, recall and their harmonic mean, each from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rouge {
    /// Length of the common subsequence by that of the prediction.
    pub precision: f64,
    /// Length of the common subsequence by that of the target.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
}

/// ROUGE-L of `prediction` against `target`; all zero where one of them has no words.
pub fn rouge_l(target: &str, prediction: &str) -> Rouge {
    let mut words = Words::default();
    let (target, prediction) = (words.take_up(target), words.take_up(prediction));
    let common = Masks::new(&target, words.len()).common(&prediction, &mut Vec::new());
    score(common, target.len(), prediction.len())
}

/// The words of a text: runs of ASCII letters and digits after Unicode lower-casing. Everything else only separates.
pub fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower
        .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn score(common: usize, target: usize, prediction: usize) -> Rouge {
    if target == 0 || prediction == 0 {
        return Rouge::default();
    }
    let (precision, recall) = (common as f64 / prediction as f64, common as f64 / target as f64);
    let sum = precision + recall;
    let f1 = if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 };
    Rouge { precision, recall, f1 }
}

/// How like the texts of a pool a text is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Similarity {
    /// The largest F1 with any of them; 0 where there is none.
    pub most: f64,
    /// The mean of all.
    pub mean: f64,
}

/// Texts to compare with, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    words: Words,
    texts: Vec<Box<[u32]>>,
}

impl Pool {
    /// A pool of `texts`.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut pool = Self::default();
        texts.into_iter().for_each(|text| pool.push(text));
        pool
    }

    /// Adds a text.
    pub fn push(&mut self, text: &str) {
        let words = self.words.take_up(text);
        self.texts.push(words.into_boxed_slice());
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Compares `text` with every text of the pool by F1. The result is the same on any number of threads.
    pub fn compare(&self, text: &str) -> Similarity {
        /// Fewer are not worth a task of their own.
        const TEXTS_OF_A_TASK: usize = 512;
        if self.texts.is_empty() {
            return Similarity::default();
        }
        let own = self.words.look_up(text);
        // A word that the pool does not know is common to nothing.
        let masks = Masks::new(&own, self.words.len());
        let f1s: Vec<f64> = self
            .texts
            .par_chunks(TEXTS_OF_A_TASK)
            .flat_map_iter(|texts| {
                let (masks, mut room) = (&masks, Vec::new());
                texts.iter().map(move |other| {
                    score(masks.common(other, &mut room), other.len(), masks.length).f1
                })
            })
            .collect();
        let most = f1s.iter().copied().fold(0.0, f64::max);
        Similarity { most, mean: f1s.iter().sum::<f64>() / f1s.len() as f64 }
    }
}

/// Numbers for words.
#[derive(Debug, Clone, Default)]
struct Words(HashMap<String, u32>);

/// Stands for every word that has no number.
const UNKNOWN: u32 = u32::MAX;

impl Words {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn take_up(&mut self, text: &str) -> Vec<u32> {
        let mut number = |word| {
            let next = self.0.len() as u32;
            *self.0.entry(word).or_insert(next)
        };
        words(text).into_iter().map(&mut number).collect()
    }

    fn look_up(&self, text: &str) -> Vec<u32> {
        words(text).iter().map(|word| self.0.get(word).copied().unwrap_or(UNKNOWN)).collect()
    }
}

/// Where each word stands in a text, as bits.
struct Masks {
    /// Words of the text.
    length: usize,
    /// By number of a word: which of the rows is its own, from 1; 0 where the text does not have it.
    row_of: Vec<u32>,
    /// Rows of `blocks` blocks.
    rows: Vec<u64>,
    blocks: usize,
}

impl Masks {
    fn new(text: &[u32], known: usize) -> Self {
        let blocks = text.len().div_ceil(64);
        let (mut row_of, mut rows) = (vec![0; known], Vec::new());
        for (place, &word) in text.iter().enumerate() {
            let Some(row) = row_of.get_mut(word as usize) else { continue };
            if *row == 0 {
                rows.resize(rows.len() + blocks, 0);
                *row = (rows.len() / blocks) as u32;
            }
            rows[(*row as usize - 1) * blocks + place / 64] |= 1 << (place % 64);
        }
        Self { length: text.len(), row_of, rows, blocks }
    }

    /// Length of the longest common subsequence with `other`. `room` is only memory to work in.
    fn common(&self, other: &[u32], room: &mut Vec<u64>) -> usize {
        // A bit that is off is one more word in common.
        room.clear();
        room.resize(self.blocks, u64::MAX);
        for &word in other {
            let row = self.row_of.get(word as usize).copied().unwrap_or(0) as usize;
            if row == 0 {
                continue;
            }
            let mask = &self.rows[(row - 1) * self.blocks..row * self.blocks];
            let mut carry = false;
            for (state, mask) in room.iter_mut().zip(mask) {
                let met = *state & mask;
                let (sum, over) = state.overflowing_add(met);
                let (sum, over_too) = sum.overflowing_add(u64::from(carry));
                carry = over || over_too;
                *state = sum | (*state & !mask);
            }
        }
        let used = |block: usize| match self.length - block * 64 {
            64.. => u64::MAX,
            rest => (1 << rest) - 1,
        };
        let off = |(block, state): (usize, &u64)| (!state & used(block)).count_ones() as usize;
        room.iter().enumerate().map(off).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/rouge");

    /// SplitMix64, as `make.py` draws.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 33) as usize % n
        }
    }

    struct Drawn {
        pieces: Vec<String>,
        joints: Vec<String>,
        random: Random,
    }

    impl Drawn {
        fn vocabulary(&mut self) -> (usize, usize) {
            let n = self.pieces.len();
            (self.random.below(n), 1 + self.random.below(n))
        }

        fn text(&mut self, (start, size): (usize, usize)) -> String {
            let count = if self.random.below(12) == 0 {
                0
            } else if self.random.below(8) == 0 {
                60 + self.random.below(120)
            } else {
                1 + self.random.below(30)
            };
            let mut made = String::new();
            for _ in 0..count {
                made += &self.pieces[(start + self.random.below(size)) % self.pieces.len()];
                made += &self.joints[self.random.below(self.joints.len())];
            }
            made
        }

        fn pair(&mut self) -> (String, String) {
            let words = self.vocabulary();
            let target = self.text(words);
            let words = if self.random.below(4) == 0 { self.vocabulary() } else { words };
            (target, self.text(words))
        }
    }

    fn cases() -> serde_json::Value {
        let text = std::fs::read_to_string(format!("{GOLDENS}/cases.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn drawn(cases: &serde_json::Value) -> Drawn {
        let list = |name: &str| serde_json::from_value(cases[name].clone()).unwrap();
        let random = Random(cases["seed"].as_u64().unwrap());
        Drawn { pieces: list("pieces"), joints: list("joints"), random }
    }

    /// Bit for bit: both sides divide the same two whole numbers.
    #[test]
    fn equals_the_rouge_score_package_on_ten_thousand_pairs() {
        let cases = cases();
        for case in cases["hand"].as_array().unwrap() {
            let (target, prediction) = (&case["target"], &case["prediction"]);
            let ours = rouge_l(target.as_str().unwrap(), prediction.as_str().unwrap());
            let theirs: [f64; 3] = serde_json::from_value(case["scores"].clone()).unwrap();
            assert_eq!([ours.precision, ours.recall, ours.f1], theirs, "{target} {prediction}");
        }
        let mut drawn = drawn(&cases);
        let scores = std::fs::read(format!("{GOLDENS}/scores.bin")).unwrap();
        let (doubles, _) = scores.as_chunks::<8>();
        let doubles: Vec<f64> = doubles.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        let (triples, _) = doubles.as_chunks::<3>();
        assert_eq!(triples.len(), 10_000);
        assert!(triples.iter().filter(|triple| triple[2] > 0.0).count() > 5_000);
        for (number, theirs) in triples.iter().enumerate() {
            let (target, prediction) = drawn.pair();
            let ours = rouge_l(&target, &prediction);
            let ours = [ours.precision, ours.recall, ours.f1];
            assert_eq!(ours, *theirs, "pair {number}: {target:?} {prediction:?}");
        }
    }

    /// The pool against one text at a time, and on several numbers of threads.
    #[test]
    fn a_pool_says_what_its_texts_say_one_by_one() {
        let mut drawn = drawn(&cases());
        let texts: Vec<String> = (0..1_500).map(|_| drawn.pair().0).collect();
        let pool = Pool::new(texts.iter().map(String::as_str));
        assert_eq!((pool.len(), pool.is_empty()), (1_500, false));
        let queries: Vec<String> = (0..20).map(|_| drawn.pair().1 + " unheard of").collect();
        let compare = || queries.iter().map(|q| pool.compare(q)).collect::<Vec<Similarity>>();
        let expected: Vec<Similarity> = queries
            .iter()
            .map(|query| {
                let f1s: Vec<f64> = texts.iter().map(|text| rouge_l(text, query).f1).collect();
                let most = f1s.iter().copied().fold(0.0, f64::max);
                Similarity { most, mean: f1s.iter().sum::<f64>() / 1_500.0 }
            })
            .collect();
        assert!(expected.iter().any(|similarity| similarity.most > 0.3));
        for threads in [1, 2, 5] {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(threads.install(compare), expected);
        }
        assert_eq!(Pool::default().compare("a"), Similarity::default());
    }

    #[test]
    fn words_are_lower_case_ascii() {
        assert_eq!(
            words("Don't e-mail: 3.14_x, İ!"),
            ["don", "t", "e", "mail", "3", "14", "x", "i"]
        );
        assert!(words(" … 日本").is_empty());
    }
}
