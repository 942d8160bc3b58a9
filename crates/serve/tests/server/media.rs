//! Pictures and clips of requests.

use savi_schema::{CountRule, FrameSampling, MediaPolicy, Part};
use savi_serve::ServeOptions;
use serde_json::{Value, json};

use crate::client::{Server, options, server, server_with};
use crate::fake::Limits;

const PNG: &str = "data:image/png;base64,iVBORw0KGgoAAAA=";
const MP4: &str = "data:video/mp4;base64,AAAAGGZ0eXA=";

fn body(parts: Value, mut fields: Value) -> Value {
    let mut content = parts.as_array().unwrap().clone();
    content.push(json!({"type": "text", "text": "look"}));
    fields["messages"] = json!([{"role": "user", "content": content}]);
    fields
}

fn looked(server: &Server, parts: Value, fields: Value) -> String {
    let answer = server.post("/v1/chat/completions", &body(parts, fields));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

fn policies(server: &Server) -> Vec<Option<MediaPolicy>> {
    let seen = server.backend.seen().pop().unwrap();
    let parts = seen.messages.into_iter().flat_map(|message| message.content);
    let media = parts.filter_map(|part| match part {
        Part::Video(media) | Part::Image(media) => Some(media.policy),
        Part::Text { .. } => None,
    });
    media.collect()
}

#[test]
fn data_becomes_files_that_last_as_long_as_the_request() {
    let server = server();
    let parts = json!([
        {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
        {"type": "image_url", "image_url": PNG},
        {"type": "image", "image": PNG},
        {"type": "video_url", "video_url": {"url": MP4}},
        {"type": "input_video", "input_video": format!("{MP4}#t=1.5,2")},
    ]);
    let said = looked(&server, parts, json!({}));
    assert_eq!(said, "image:png:11: image:png:11: image:png:11: video:mp4:8: video:mp4:8:1.5,2");
    let seen = server.backend.seen().pop().unwrap();
    for part in &seen.messages[0].content {
        let (Part::Image(media) | Part::Video(media)) = part else { continue };
        let file = media.source.split('#').next().unwrap();
        assert!(!std::path::Path::new(file).exists(), "{file} was left behind");
    }
    // Media stand among the words in the order of the request.
    assert!(matches!(seen.messages[0].content[0], Part::Image(_)));
    assert!(matches!(seen.messages[0].content[5], Part::Text { .. }));
}

#[test]
fn frames_are_chosen_by_the_request() {
    let server = server();
    let clip = json!([{"type": "video_url", "video_url": {"url": MP4}}]);
    let count = |frames| Some(MediaPolicy::count(frames, CountRule::SegmentStart));
    looked(&server, clip.clone(), json!({"mm_processor_kwargs": {"num_frames": 4}}));
    assert_eq!(policies(&server), [count(4)]);
    looked(&server, clip.clone(), json!({"mm_processor_kwargs": {"fps": 0.5}}));
    let by_rate = MediaPolicy::new(FrameSampling::Fps {
        fps: 0.5,
        min_frames: 1,
        max_frames: 768,
        multiple_of: 1,
        rule: CountRule::SegmentStart,
    });
    assert_eq!(policies(&server), [Some(by_rate)]);
    looked(&server, clip, json!({}));
    assert_eq!(policies(&server), [None]);
    let both = json!([
        {"type": "video", "video": MP4, "nframes": 8},
        {"type": "video_url", "video_url": {"url": MP4}},
        {"type": "image_url", "image_url": {"url": PNG}},
    ]);
    looked(&server, both, json!({"mm_processor_kwargs": {"num_frames": 4}}));
    assert_eq!(policies(&server), [count(8), count(4), None]);
}

#[test]
fn files_of_allowed_folders() {
    let folder = tempfile::tempdir().unwrap();
    let open = folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::write(open.join("a b.mp4"), [0; 77]).unwrap();
    std::fs::write(folder.path().join("secret.mp4"), [0; 9]).unwrap();
    std::os::unix::fs::symlink(folder.path().join("secret.mp4"), open.join("link.mp4")).unwrap();
    let options = ServeOptions { allow_files: vec![open.clone()], ..options() };
    let server = server_with(options, Limits { running: 2, waiting: 2 });
    let clip = |name: &str| {
        let url = format!("file://{}/{name}", open.display());
        json!([{"type": "video_url", "video_url": {"url": url}}])
    };
    assert_eq!(looked(&server, clip("a%20b.mp4"), json!({})), "video:mp4:77:");
    assert_eq!(looked(&server, clip("a%20b.mp4#t=0,1"), json!({})), "video:mp4:77:0,1");
    for name in ["link.mp4", "../secret.mp4", "%2e%2e/secret.mp4", "none.mp4"] {
        let answer = server.post("/v1/chat/completions", &body(clip(name), json!({})));
        let error = answer.refused(400);
        assert_eq!(error["code"], "invalid_media", "{name}");
        assert_eq!(error["param"], "messages[0].content[0].video_url.url");
        assert!(!answer.body.contains("secret"), "{answer:?}");
    }
}

#[test]
fn private_addresses_of_the_web() {
    let options = ServeOptions { allow_http: true, ..options() };
    let server = server_with(options, Limits { running: 2, waiting: 2 });
    for host in ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"] {
        // The server's own port: who could reach it would hear of it.
        let url = format!("http://{host}:{}/health", server.address.port());
        let parts = json!([{"type": "image_url", "image_url": {"url": url}}]);
        let error = server.post("/v1/chat/completions", &body(parts, json!({}))).refused(400);
        let message = error["message"].as_str().unwrap();
        assert!(message.ends_with("not on the public internet"), "{host}: {message}");
    }
}

#[test]
fn no_more_media_than_are_taken() {
    let server = server();
    let images = vec![json!({"type": "image_url", "image_url": {"url": PNG}}); 33];
    let error = server.post("/v1/chat/completions", &body(json!(images), json!({}))).refused(400);
    assert!(error["message"].as_str().unwrap().contains("32 pictures at most"));
    let clips = vec![json!({"type": "video_url", "video_url": {"url": MP4}}); 5];
    let error = server.post("/v1/chat/completions", &body(json!(clips), json!({}))).refused(400);
    assert!(error["message"].as_str().unwrap().contains("4 clips at most"));
}
