//! `fourfold check FILE --explain URL`, and the files that a configuration names.

use crate::common::program::{Finished, Scratch, fourfold};
use std::path::{Path, PathBuf};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples/http.toml")
}

#[track_caller]
fn explain(url: &str, more: &[&str]) -> Finished {
    let path = example();
    let mut args = vec!["check", path.to_str().unwrap(), "--explain", url];
    args.extend(more);
    fourfold(&args)
}

#[test]
fn a_request_is_explained_and_the_status_says_whether_it_is_taken() {
    let taken = explain("http://api.example.com/v1/users", &["--header", "X-Canary: 1"]);
    assert_eq!(taken.code(), Some(0), "{taken:?}");
    assert!(taken.stdout.contains("route \"api-canary\": pool \"api-next\""), "{taken:?}");
    assert!(taken.stdout.contains("\"live\": the path is not /live"), "{taken:?}");
    let refused = explain("/a%00b", &[]);
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.stdout.contains("refused with 400"), "{refused:?}");
}

#[test]
fn an_explanation_is_there_as_json() {
    let json = explain("http://www.example.org/a", &["--json", "--method", "HEAD", "--from", "10.1.2.3"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["taken"], true);
    assert_eq!(value["listeners"][0]["route"], "old-names");
    assert!(value["listeners"][0]["notes"][0].as_str().unwrap().contains("trusted proxy"), "{value}");
}

#[test]
fn a_malformed_question_is_wrong_usage() {
    for (url, more) in [
        ("example.com", &[][..]),
        ("/", &["--header", "no colon"]),
        ("/", &["--method", "GE T"]),
        ("/", &["--from", "example.com"]),
    ] {
        let finished = explain(url, more);
        assert_eq!(finished.code(), Some(2), "{url} {more:?}: {finished:?}");
    }
    let path = example();
    let alone = fourfold(&["check", path.to_str().unwrap(), "--method", "GET"]);
    assert_eq!(alone.code(), Some(2), "{alone:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_line() {
    let page = Scratch::new("page.html", b"");
    let config = |file: &str| {
        format!(
            "[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:8080\"\nmode = \"http\"\npool = \"p\"\n\
             [[listener.error_page]]\nstatus = \"5xx\"\nfile = \"{file}\"\n\
             [[pool]]\nname = \"p\"\n[[pool.server]]\naddress = \"127.0.0.1:9\"\n"
        )
    };
    for (file, why) in
        [("missing.html", "No such file"), ("/", "is a folder"), ("/dev/null", "not a regular file")]
    {
        let config = Scratch::new("page.toml", config(file).as_bytes());
        for command in ["check", "run"] {
            let finished = fourfold(&[command, config.0.to_str().unwrap()]);
            assert_eq!(finished.code(), Some(1), "{file}: {finished:?}");
            assert!(finished.stderr.contains(why) && finished.stderr.contains(":8:8: error"), "{finished:?}");
        }
    }
    // Beside the configuration, by its bare name.
    let name = page.0.file_name().unwrap().to_str().unwrap();
    let config = Scratch::new("page.toml", config(name).as_bytes());
    let finished = fourfold(&["check", config.0.to_str().unwrap()]);
    assert_eq!(finished.code(), Some(0), "{finished:?}");
}
