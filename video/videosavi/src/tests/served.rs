//! A model elsewhere that draws in place of the one that learns.

use super::*;

/// A served model draws what it is told to, under its own name; what is learnt from in later rounds is refused.
#[test]
fn a_served_model_draws_in_its_place() {
    let fuse = || Rc::new(Cell::new(u32::MAX));
    let local = Scripted { skill: 0.4, name: "base".to_owned(), reasons: false, fuse: fuse() };
    let elsewhere =
        Scripted { skill: 0.9, name: "served".to_owned(), reasons: false, fuse: fuse() };
    let config = Config { rounds: 2, ..config(Form::Judge) };
    let run = |dir: &Path, draws: &[DrawKind], fingerprint: &str| {
        let table = toml::Table::try_from(&config).unwrap();
        let folder = RunFolder::open(dir, &table, &FolderOptions::default()).unwrap();
        let metrics = Metrics::open(dir).unwrap();
        let (clips, labelled, exam) = (clips(7), labelled(), exam());
        let served = Served { model: &elsewhere, fingerprint, draws };
        let served = Some(&served);
        let inputs = Inputs {
            seed: 5,
            clips: &clips,
            labelled: &labelled,
            exam: &exam,
            served,
            space: None,
        };
        let interrupt = Interrupt::new();
        let outputs = Outputs { folder: &folder, metrics: &metrics, interrupt: &interrupt };
        let fuse = local.fuse.clone();
        let model = Scripted { name: local.name.clone(), fuse, ..local };
        crate::run(&config, &inputs, &mut ScriptedLearner { model }, &outputs)
    };
    let dir = tempfile::tempdir().unwrap();
    let error = run(dir.path(), &DrawKind::ALL, "served").unwrap_err().to_string();
    assert!(error.contains("answer") && error.contains("rounds = 1"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &[DrawKind::Ask, DrawKind::Judge], "served").unwrap();
    let models = |stage: &str| -> HashSet<String> {
        let path = dir.path().join("stages").join(stage).join("records.jsonl");
        let text = fs::read_to_string(path).unwrap();
        let mut found = HashSet::new();
        for line in text.lines() {
            for at in line.split("\"model\":\"").skip(1) {
                found.insert(at.split('"').next().unwrap().to_owned());
            }
        }
        found
    };
    assert_eq!(models("11-ask"), HashSet::from(["served".to_owned()]));
    assert_eq!(models("23-judge"), HashSet::from(["served".to_owned()]));
    assert_eq!(models("12-answer"), HashSet::from(["base".to_owned()]));
    assert!(!models("22-answer").contains("served"));
    // The stages' keys hold who drew.
    let key = |dir: &Path| fs::read_to_string(dir.join("stages/11-ask/done.json")).unwrap();
    let other = tempfile::tempdir().unwrap();
    run(other.path(), &[DrawKind::Ask, DrawKind::Judge], "another").unwrap();
    assert_ne!(key(dir.path()), key(other.path()));
}
