//! `savi ingest` from the command line to its files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn clip(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/ingest").join(name)
}

fn savi(arguments: &[&str], out: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_savi"));
    command.arg("ingest").args(arguments).arg("--out").arg(out).output().unwrap()
}

fn report(folder: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(folder.join("frames.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn frames_their_times_and_a_contact_sheet() {
    let folder = tempfile::tempdir().unwrap();
    let source = clip("h264-open-gop.mp4").display().to_string();
    let output =
        savi(&[&source, "--frames", "5", "--rule", "linspace", "--size", "40x30"], folder.path());
    assert!(output.status.success(), "{}", stderr(&output));
    let report = report(folder.path());
    assert_eq!(report["schema"], 1);
    assert_eq!(report["source"], source.as_str());
    assert_eq!(report["partial"], serde_json::Value::Null);
    assert_eq!(report["metadata"]["codec"], "h264");
    assert_eq!(report["metadata"]["frame_count"], 24);
    assert_eq!(report["policy"]["sampling"]["rule"], "linspace");
    let frames = report["frames"].as_array().unwrap();
    let indices: Vec<u64> = frames.iter().map(|f| f["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 5, 11, 17, 23]);
    for frame in frames {
        let time = frame["index"].as_f64().unwrap() / 25.0;
        assert!((frame["time"].as_f64().unwrap() - time).abs() < 1e-9);
        let picture = image::open(folder.path().join(frame["file"].as_str().unwrap())).unwrap();
        assert_eq!((picture.width(), picture.height()), (40, 30));
    }
    // Five thumbnails of 200 x 150 in a row, gaps of 6, captions of 16.
    let sheet = image::open(folder.path().join("contact-sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (5 * 206 + 6, 150 + 16 + 6 + 6));
    // Nothing temporary stays.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 7);
}

#[test]
fn several_clips_and_parts_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let part = format!("{}#t=0.2,0.6", clip("vp9.webm").display());
    let whole = clip("vp9.webm").display().to_string();
    let output =
        savi(&["--json", &part, &whole, "--fps", "10", "--multiple-of", "1"], folder.path());
    assert!(output.status.success(), "{}", stderr(&output));
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let reports = [report(&folder.path().join("vp9")), report(&folder.path().join("vp9-2"))];
    assert_eq!(printed, serde_json::json!(reports));
    assert_eq!(reports[0]["policy"]["start"], 0.2);
    let first = reports[0]["frames"][0]["time"].as_f64().unwrap();
    assert!((first - 0.2).abs() < 1e-9, "{first}");
    assert!(reports[1]["frames"].as_array().unwrap().len() == 9);
}

#[test]
fn a_folder_of_pictures_is_a_clip() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, out) = (folder.path().join("pictures"), folder.path().join("out"));
    std::fs::create_dir(&pictures).unwrap();
    for number in 1..=12u8 {
        let picture = image::RgbImage::from_pixel(8, 6, image::Rgb([number * 20; 3]));
        picture.save(pictures.join(format!("frame{number}.png"))).unwrap();
    }
    let output =
        savi(&[&pictures.display().to_string(), "--frames", "3", "--rule", "linspace"], &out);
    assert!(output.status.success(), "{}", stderr(&output));
    for (frame, number) in [(0, 1u8), (1, 6), (2, 12)] {
        let picture = image::open(out.join(format!("frame-{frame:04}.png"))).unwrap().into_rgb8();
        assert_eq!(picture.get_pixel(0, 0).0, [number * 20; 3]);
    }
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let output = savi(&[&empty.display().to_string()], &out);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn bad_input_is_named_and_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], expected: &str| {
        let output = savi(arguments, &folder.path().join("out"));
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    };
    let good = clip("vp8.webm").display().to_string();
    check(&["no-such-file.mp4"], "no-such-file.mp4: no such file");
    check(&["/dev/zero"], "/dev/zero: neither a regular file nor a folder");
    check(&["http://localhost/a.mp4"], "protocol `http` is not allowed");
    check(&[&good, "--times", "0.5,99"], "99 s is outside");
    check(&[&good, "--frames", "0"], "frames must be at least 1");
    check(&[&good, "--size", "0x5"], "is no size");
    check(&[&good, "--start", "5"], "past the end");
    check(&[&good, "--frames", "4", "--fps", "2"], "cannot be used with");
    check(&[&good, "also-missing.mkv"], "also-missing.mkv");
    // The good clip beside the missing one was read all the same.
    assert!(folder.path().join("out/vp8/frames.json").exists());
}
