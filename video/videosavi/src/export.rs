//! A round's lesson as files, in this project's layout and in those of other trainers, so that it
//! can be taught elsewhere or looked at.

use std::path::Path;

use savi_data::{DataError, PairFormat, RowWriter, write_pairs};

use crate::learn::Lesson;

/// Writes `pairs.jsonl` (and the same pairs for LLaVA-Hound's and ms-swift's trainers) or
/// `examples.jsonl` into `dir`.
pub(crate) fn write(dir: &Path, lesson: &Lesson) -> Result<(), DataError> {
    match lesson {
        Lesson::Nothing => Ok(()),
        Lesson::Examples(examples) => {
            let mut rows = RowWriter::create(&dir.join("examples.jsonl"))?;
            examples.iter().try_for_each(|example| rows.write(example))?;
            rows.finish().map(drop)
        }
        Lesson::Pairs(pairs) => {
            write_pairs(&dir.join("pairs.jsonl"), pairs, PairFormat::Savi)?;
            for (name, format) in [
                ("pairs.llava-hound.jsonl", PairFormat::LlavaHound),
                ("pairs.ms-swift.jsonl", PairFormat::MsSwift),
            ] {
                // What another layout cannot say is no reason to stop the loop.
                if let Err(error) = write_pairs(&dir.join(name), pairs, format) {
                    tracing::warn!("{name} is left out: {error}");
                }
            }
            Ok(())
        }
    }
}
