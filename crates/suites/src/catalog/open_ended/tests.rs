use super::super::tests::{load, refused};
use super::*;

const HEAD: &str = ",video_id,answer,question,video_name,question_id,question_type\n";

fn csv(name: &str, split: &str, file: &str, row: &str) -> Item {
    load(name, split, &[(file, &format!("{HEAD}{row}\n"))]).remove(0)
}

#[test]
fn carriers_of_a_benchmark_give_the_same_item() {
    let msvd = csv("msvd-qa", "val", "MSVD_QA.csv", "1,7,man,who runs?,aB_c_1_9,7_301,0");
    assert_eq!((msvd.id.as_str(), msvd.cluster.as_str()), ("301", "aB_c_1_9"));
    assert_eq!((msvd.target(), msvd.categories["type"].as_str()), ("man".to_owned(), "who"));
    let list = r#"[{"answer":"man","id":301,"question":"who runs?","video_id":7}]"#;
    let files = [("val_qa.json", list), ("youtube_mapping.txt", "zz_1_2 vid1\naB_c_1_9 vid7\n")];
    assert_eq!(load("msvd-qa", "val", &files), [msvd]);

    let msrvtt = csv("msrvtt-qa", "val", "MSRVTT_QA.csv", "1,65,sofa,what is it?,video65,158,14");
    let list =
        r#"[{"answer":"sofa","category_id":14,"id":158,"question":"what is it?","video_id":65}]"#;
    assert_eq!(load("msrvtt-qa", "val", &[("val_qa.json", list)]), [msrvtt]);

    let tgif =
        csv("tgif-frameqa", "test", "TGIF_FrameQA.csv", "1,FRAMEQA4,two,how many?,tumblr_x,99,1");
    assert_eq!((tgif.id.as_str(), tgif.categories["type"].as_str()), ("FRAMEQA4", "number"));

    let row = "1,v_abcdefghijk,no,\"\n52,is it dark \",v_abcdefghijk,v_abcdefghijk_3,3";
    let activitynet = csv("activitynet-qa", "test", "ActivityNet_QA.csv", row);
    assert_eq!(activitynet.question, "is it dark");
    assert_eq!(words(&activitynet), "Is it dark?\nReply with one word or a short phrase.");
    let questions = r#"[{"video_name":"lmnopqrstuv","question":"why","question_id":"v_lmnopqrstuv_1"},
        {"video_name":"abcdefghijk","question":"\nis it dark","question_id":"v_abcdefghijk_3"}]"#;
    let answers = r#"[{"answer":"no","type":3,"question_id":"v_abcdefghijk_3"},
        {"answer":"fun","type":8,"question_id":"v_lmnopqrstuv_1"}]"#;
    let files = [("test_q.json", questions), ("test_a.json", answers)];
    let items = load("activitynet-qa", "test", &files);
    assert_eq!((items[0].target(), &items[1]), ("fun".to_owned(), &activitynet));
    let row = r#"{"video_name":"abcdefghijk","question_id":"v_abcdefghijk_3","question":"is it dark","answer":"no","type":"3"}"#;
    assert_eq!(load("activitynet-qa", "test", &[("test-0.jsonl", row)]), [activitynet]);
}

#[test]
fn questions_and_answers_that_do_not_belong_together() {
    let question = r#"{"video_name":"a","question":"why","question_id":"1"}"#;
    let answer = r#"{"answer":"no","type":3,"question_id":"1"}"#;
    let two = |row: &str| format!("{row}\n{}", row.replace("\"1\"", "\"2\""));
    for (questions, answers, message) in [
        (two(question), answer.to_owned(), "test_q.json, row 2: no answer in"),
        (question.to_owned(), two(answer), "test_a.json, row 2: no question in"),
        (
            question.to_owned(),
            format!("{answer}\n{answer}"),
            "test_a.json, row 2: id \"1\" was used",
        ),
        (
            question.to_owned(),
            answer.replace("question_id", "id"),
            "row 1: missing key \"question_id\"",
        ),
        (
            question.to_owned(),
            answer.replace(":3", ":9"),
            "test_q.json, row 1: type 9 is none of 9",
        ),
        (question.to_owned(), answer.replace("\"type\":3,", ""), "missing key \"question_type\""),
        (question[..30].to_owned(), answer.to_owned(), "test_q.json, row 1: "),
    ] {
        let files = [("test_q.json", questions.as_str()), ("test_a.json", answers.as_str())];
        refused("activitynet-qa", "test", &files, message);
    }
    let list = r#"[{"answer":"man","id":301,"question":"who runs?","video_id":7}]"#;
    let files = [("val_qa.json", list), ("youtube_mapping.txt", "aB_c_1_9 vid8")];
    refused("msvd-qa", "val", &files, "row 1: \"vid7\" is no clip of the mapping");
    let files = [("val_qa.json", list), ("youtube_mapping.txt", "\naB_c_1_9")];
    refused("msvd-qa", "val", &files, "youtube_mapping.txt, row 2: not a clip's name");
    let rows = format!("{HEAD}1,7,,who runs?,x,7_301,0\n");
    refused("msvd-qa", "val", &[("MSVD_QA.csv", &rows)], "row 1: missing key \"answer\"");
    let rows = format!("{HEAD}1,7,man,who runs?,x,7_301\n");
    refused("msvd-qa", "val", &[("MSVD_QA.csv", &rows)], "row 1: 6 cells under 7 columns");
}
