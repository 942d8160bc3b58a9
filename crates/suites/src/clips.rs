//! Where the clips of a benchmark lie: archives unpack into folders of many shapes, names are the same everywhere.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::item::ItemClip;

/// Endings of files that are taken for clips.
const ENDINGS: [&str; 7] = ["mp4", "mkv", "webm", "avi", "mov", "gif", "flv"];
/// How deep folders are searched.
const DEEPEST: usize = 6;

/// The clips below a folder, by path and by stem.
#[derive(Debug)]
pub struct Clips {
    root: PathBuf,
    by_stem: HashMap<String, PathBuf>,
}

impl Clips {
    /// Looks through `root`. Of two clips with one stem the first by path counts.
    pub fn below(root: &Path) -> std::io::Result<Self> {
        let mut paths = Vec::new();
        walk(root, DEEPEST, &mut paths)?;
        paths.sort();
        let mut by_stem = HashMap::new();
        for path in paths {
            if let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) {
                by_stem.entry(stem.to_owned()).or_insert(path.clone());
            }
        }
        Ok(Self { root: root.to_owned(), by_stem })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file (or folder of frames) of a clip: the path as it is, the path with an ending, or the only place where
    /// its stem is.
    pub fn find(&self, clip: &ItemClip) -> Option<PathBuf> {
        let path = self.root.join(&clip.name);
        if path.exists() {
            return Some(path);
        }
        let with = |ending: &&str| PathBuf::from(format!("{}.{ending}", path.display()));
        let ended = ENDINGS.iter().map(with).find(|path| path.is_file());
        ended.or_else(|| {
            let name = Path::new(&clip.name);
            let name_itself = name.file_name()?.to_str()?;
            let stem = name.file_stem()?.to_str()?;
            self.by_stem.get(name_itself).or_else(|| self.by_stem.get(stem)).cloned()
        })
    }
}

fn walk(dir: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if depth > 0 {
                walk(&path, depth - 1, paths)?;
            }
        } else if path
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| ENDINGS.contains(&ending.to_ascii_lowercase().as_str()))
        {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_are_found_by_path_by_ending_and_by_stem() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("videos/part1/1234");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::create_dir_all(dir.path().join("frames/x")).unwrap();
        for name in ["videos/a.mp4", "videos/part1/1234/b.c.webm", "videos/notes.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let clips = Clips::below(dir.path()).unwrap();
        let find = |name: &str| {
            let clip = ItemClip { name: name.to_owned(), start: None, end: None };
            let found = clips.find(&clip)?;
            Some(found.strip_prefix(dir.path()).unwrap().display().to_string())
        };
        assert_eq!(find("videos/a").as_deref(), Some("videos/a.mp4"));
        assert_eq!(find("a.avi").as_deref(), Some("videos/a.mp4"));
        assert_eq!(find("b.c").as_deref(), Some("videos/part1/1234/b.c.webm"));
        assert_eq!(find("frames/x").as_deref(), Some("frames/x"));
        assert_eq!(find("notes"), None);
    }
}
