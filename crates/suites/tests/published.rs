//! The suites against the files that were published, where they are within reach: a folder for each in the one that
//! `SAVI_SUITES` names. With `SAVI_MARKS` set, their marks and hashes are written into it.

#![expect(clippy::print_stdout, reason = "hashes are for who puts them into manifests")]

use std::path::PathBuf;

use savi_suites::catalog::SUITES;

#[test]
#[ignore = "needs the annotation files, which belong to others: set SAVI_SUITES"]
fn published_rows_are_recognised() {
    let root = PathBuf::from(std::env::var_os("SAVI_SUITES").expect("SAVI_SUITES"));
    let marks = std::env::var_os("SAVI_MARKS").map(PathBuf::from);
    let mut seen = 0;
    for suite in SUITES {
        let manifest = suite.manifest().expect("a manifest");
        for (split, published) in &manifest.splits {
            let name = format!("{} {split}", suite.name);
            let open = match suite.open(Some(split), &root.join(suite.name), marks.is_some()) {
                Ok(open) => open,
                Err(savi_suites::OpenError::Files { .. }) => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            println!("{name}: {} items, hash {}", open.items.len(), open.hash);
            if let Some(folder) = &marks {
                let path = folder.join(suite.name).join(format!("{split}.marks"));
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
                std::fs::write(path, open.marks + "\n").expect("writable");
            } else {
                assert_eq!(Some(open.items.len()), published.rows, "{name}");
                assert_eq!(open.published, published.hash.is_some().then_some(true), "{name}");
            }
            seen += 1;
        }
    }
    assert!(seen > 0, "no suite's files are below {}", root.display());
}
