//! Settings as a command line gives them.

use std::collections::HashMap;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

const OSS: &[(&str, &str)] = &[
    ("OSS_ACCESS_KEY_ID", "oss-id"),
    ("OSS_ACCESS_KEY_SECRET", "oss-secret"),
];

fn settings(line: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
    let words = ["bench"].into_iter().chain(line.split_whitespace());
    let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    Settings::from_args(line.bench, &variable).map_err(|error| error.to_string())
}

#[test]
fn what_is_not_said_has_a_default() {
    let settings =
        settings("--bucket bkt put-4k,get-16m list-1000", OSS).unwrap_or_else(|e| panic!("{e}"));
    let names: Vec<_> = settings.workloads.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["put-4k", "get-16m", "list-1000"]);
    assert_eq!(
        (settings.dialect, settings.region.as_str()),
        (Dialect::Oss, "cn-granary-1")
    );
    assert_eq!((settings.connections, settings.rounds), (32, 1));
    assert_eq!(settings.extent, Extent::Time(Duration::from_secs(10)));
    assert_eq!(settings.warm_up, Duration::from_secs(1));
    assert_eq!(settings.timeout, Duration::from_secs(30));
    assert_eq!(
        (settings.prefix.as_str(), settings.keep),
        ("granary-bench/", false)
    );
    assert_eq!(settings.json, None);
    // 40 MiB; one per connection, 512 MiB; as many as a page has, and more.
    let keys: Vec<_> = settings
        .workloads
        .iter()
        .map(|w| settings.keys_of(w))
        .collect();
    assert_eq!(keys, [10_000, 32, 10_000]);
}

#[test]
fn keys_are_as_many_as_asked_for_but_fill_a_page() {
    let settings =
        settings("--bucket bkt --keys 5 get-4k list-100", OSS).unwrap_or_else(|e| panic!("{e}"));
    let keys: Vec<_> = settings
        .workloads
        .iter()
        .map(|w| settings.keys_of(w))
        .collect();
    assert_eq!(keys, [5, 100]);
}

#[test]
fn keys_come_from_the_variables_of_the_dialect() {
    let root: &[_] = &[
        ("GRANARY_ROOT_ACCESS_KEY_ID", "root-id"),
        ("GRANARY_ROOT_ACCESS_KEY_SECRET", "root-secret"),
    ];
    let aws: &[_] = &[
        ("AWS_ACCESS_KEY_ID", "aws-id"),
        ("AWS_SECRET_ACCESS_KEY", "aws-secret"),
        ("AWS_SESSION_TOKEN", "aws-token"),
    ];
    let all = [OSS, root, aws].concat();
    let half: &[_] = &[
        ("OSS_ACCESS_KEY_ID", "oss-id"),
        ("OSS_ACCESS_KEY_SECRET", ""),
    ];
    for (line, variables, expected) in [
        ("", OSS, ("oss-id", "oss-secret", None)),
        ("", root, ("root-id", "root-secret", None)),
        ("", &all, ("oss-id", "oss-secret", None)),
        ("", &[half, root].concat(), ("root-id", "root-secret", None)),
        (
            "--dialect s3",
            &all,
            ("aws-id", "aws-secret", Some("aws-token")),
        ),
        ("--access-key-id me", OSS, ("me", "oss-secret", None)),
    ] {
        let settings = settings(&format!("--bucket bkt head {line}"), variables);
        let keys = settings
            .unwrap_or_else(|e| panic!("{line}: {e}"))
            .credentials;
        let found = (
            keys.access_key_id.as_str(),
            keys.access_key_secret.as_str(),
            keys.security_token.as_deref(),
        );
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn a_pair_is_read_from_a_file_and_no_error_shows_what_is_in_it() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("root-credentials.toml");
    let line = format!("--bucket bkt head --credentials {}", file.display());
    std::fs::write(
        &file,
        "access_key_id = \"i\"\naccess_key_secret = \"s\"\nunseen = true\n",
    )
    .unwrap();
    let read = settings(&line, OSS)
        .unwrap_or_else(|e| panic!("{e}"))
        .credentials;
    assert_eq!(
        (read.access_key_id.as_str(), read.access_key_secret.as_str()),
        ("i", "s")
    );
    std::fs::write(&file, "access_key_secret = hush\n").unwrap();
    let Err(error) = settings(&line, OSS) else {
        panic!("it is no TOML");
    };
    assert!(
        error.contains("root-credentials.toml") && !error.contains("hush"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (line, words) in [
        ("--bucket b", &["WORKLOAD"][..]),
        ("head", &["--bucket"]),
        ("--bucket bkt put", &["put-4k"]),
        ("--bucket B! head", &["--bucket"]),
        (
            "--bucket bkt head --endpoint ftp://h",
            &["--endpoint", "http"],
        ),
        (
            "--bucket bkt head --endpoint http://h/path",
            &["--endpoint"],
        ),
        (
            "--bucket bkt head --connections 0",
            &["--connections", "from 1 to 4096"],
        ),
        ("--bucket bkt head --seconds 0", &["--seconds"]),
        ("--bucket bkt head --seconds NaN", &["--seconds"]),
        (
            "--bucket bkt head --seconds 1 --requests 1",
            &["--requests"],
        ),
        ("--bucket bkt head --warm-up=-1", &["--warm-up"]),
        ("--bucket bkt head --rounds 0", &["--rounds"]),
        ("--bucket bkt head --keys 0", &["--keys"]),
        ("--bucket bkt head --keys 1000001", &["--keys", "1000000"]),
        ("--bucket bkt head --prefix /a", &["--prefix"]),
        ("--bucket bkt head --prefix a?", &["--prefix"]),
        ("--bucket bkt head --prefix a/../b", &["--prefix"]),
        (
            "--bucket bkt head --path-style --virtual-hosted",
            &["--virtual-hosted"],
        ),
        ("--bucket bkt head --dialect swift", &["oss", "s3"]),
        (
            "--bucket bkt head --access-key-secret s",
            &["--access-key-secret"],
        ),
    ] {
        let Err(error) = settings(line, OSS) else {
            panic!("{line} was taken");
        };
        for word in words {
            assert!(error.contains(word), "{line}: {error}");
        }
    }
    for (line, variables, word) in [
        ("--bucket bkt head", &[][..], "OSS_ACCESS_KEY_SECRET"),
        (
            "--bucket bkt head --dialect s3",
            OSS,
            "AWS_SECRET_ACCESS_KEY",
        ),
        (
            "--bucket bkt head --access-key-id me",
            &[],
            "no secret for me",
        ),
    ] {
        let Err(error) = settings(line, variables) else {
            panic!("{line} was taken");
        };
        assert!(error.contains(word), "{line}: {error}");
    }
}
