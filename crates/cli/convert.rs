//! `savi model convert` and `savi model merge`: models made of models.

use std::path::PathBuf;

use clap::ValueEnum;
use savi_engine::{
    EngineError, GgmlType, SaveOptions, StoredDType, convert, convert_to_gguf, merge,
};
use serde_json::json;

use crate::exit::BadInput;
use crate::{Global, hub};

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    F32,
    F16,
    Bf16,
    /// 8 bits, one scale for 32 values; GGUF alone.
    #[value(name = "q8_0")]
    Q8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Safetensors,
    Gguf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Convert {
    /// A Hugging Face folder, a .gguf file, a name on the hub or builtin:tiny.
    source: String,
    /// The folder or .gguf file to write.
    out: PathBuf,
    /// How values are stored; as they are where it is not given.
    #[arg(long)]
    dtype: Option<Kind>,
    /// safetensors (a Hugging Face folder) or gguf; by default what OUT's name says.
    #[arg(long)]
    format: Option<Format>,
    #[command(flatten)]
    written: Written,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Merge {
    /// The model: a Hugging Face folder, a .gguf file, a name on the hub or builtin:tiny.
    base: String,
    /// The folder to write.
    out: PathBuf,
    /// A folder with a PEFT adapter; may be given several times, added in order.
    #[arg(long, value_name = "DIR", required = true)]
    adapter: Vec<PathBuf>,
    /// How values are stored; as they are where it is not given.
    #[arg(long)]
    dtype: Option<Kind>,
    #[command(flatten)]
    written: Written,
}

#[derive(Debug, clap::Args)]
struct Written {
    /// Bytes of a file at most, with KB, MB or GB (powers of 1000) or KiB, MiB or GiB.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    max_shard_size: u64,
    /// Replace a model that is there already.
    #[arg(long)]
    overwrite: bool,
}

impl Written {
    fn options(&self, dtype: Option<StoredDType>) -> SaveOptions {
        let &Self { max_shard_size, overwrite } = self;
        SaveOptions { dtype, max_shard_size, overwrite }
    }
}

/// The type in a Hugging Face folder.
fn stored(kind: Option<Kind>) -> anyhow::Result<Option<StoredDType>> {
    Ok(match kind {
        None => None,
        Some(Kind::F32) => Some(StoredDType::F32),
        Some(Kind::F16) => Some(StoredDType::F16),
        Some(Kind::Bf16) => Some(StoredDType::BF16),
        Some(Kind::Q8) => {
            let reason = "--dtype q8_0: safetensors hold f32, f16 and bf16; give --format gguf";
            return Err(BadInput(anyhow::anyhow!(reason)).into());
        }
    })
}

/// A number of bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        other => return Err(format!("{other:?} is no unit (B, KB, MB, GB, KiB, MiB, GiB)")),
    };
    let count: u64 = digits.trim().parse().map_err(|e| format!("{digits:?}: {e}"))?;
    match count.checked_mul(unit) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("give at least one byte and less than 2^64".to_owned()),
    }
}

pub(crate) fn run_convert(args: &Convert, global: &Global) -> anyhow::Result<()> {
    hub::fetch(&args.source)?;
    let named = args.out.extension().is_some_and(|extension| extension == "gguf");
    let format = args.format.unwrap_or(if named { Format::Gguf } else { Format::Safetensors });
    let done = match format {
        Format::Safetensors => {
            let options = args.written.options(stored(args.dtype)?);
            convert(&args.source, &args.out, &options)
        }
        Format::Gguf => {
            let kind = args.dtype.map(|kind| match kind {
                Kind::F32 => GgmlType::F32,
                Kind::F16 => GgmlType::F16,
                Kind::Bf16 => GgmlType::BF16,
                Kind::Q8 => GgmlType::Q8_0,
            });
            convert_to_gguf(&args.source, &args.out, kind, args.written.overwrite)
        }
    };
    told(done, &args.out, global)
}

pub(crate) fn run_merge(args: &Merge, global: &Global) -> anyhow::Result<()> {
    hub::fetch(&args.base)?;
    let options = args.written.options(stored(args.dtype)?);
    told(merge(&args.base, &args.adapter, &args.out, &options), &args.out, global)
}

fn told(
    done: Result<(), EngineError>,
    out: &std::path::Path,
    global: &Global,
) -> anyhow::Result<()> {
    done.map_err(|e| BadInput(e.into()))?;
    if global.json {
        println!("{}", json!({"model": out}));
    } else {
        println!("{}", out.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes() {
        assert_eq!(size("5GB"), Ok(5_000_000_000));
        assert_eq!(size("2MiB"), Ok(2 << 20));
        assert_eq!(size("300"), Ok(300));
        for wrong in ["", "0", "-1", "5 parsec", "GB", "99999999999GB", "5ä"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
