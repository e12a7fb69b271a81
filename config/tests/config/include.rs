//! `!include` in every form, and everything it refuses.

use crate::support::Files;
use std::os::unix::fs::PermissionsExt;

const A: &str = "name: a\nport: 20001\n";

fn names(files: &Files) -> Vec<String> {
    let loaded = files.load("main.yaml").unwrap_or_else(|problems| panic!("{problems}"));
    loaded.config.channels.iter().map(|c| c.name.clone()).collect()
}

#[test]
fn an_include_stands_for_any_value() {
    let files = Files::new(&[
        ("main.yaml", "max_tasks: !include tasks.yaml\nchannels: !include sub/channels.yaml\n"),
        ("tasks.yaml", "7\n"),
        (
            "sub/channels.yaml",
            "- !include a.yaml\n- name: b\n  port: 20002\n  mapping: !include ../map.yaml\n",
        ),
        ("sub/a.yaml", A),
        ("map.yaml", "patient_id: PID.1.3.1\n"),
    ]);
    assert_eq!(names(&files), ["a", "b"]);
    let loaded = files.load("main.yaml").unwrap();
    assert_eq!(loaded.config.service.max_tasks, 7);
    assert_eq!(loaded.config.channels[1].mapping[0].name, "patient_id");
    let read: Vec<String> =
        loaded.files.iter().map(|f| files.without_folder(&f.display().to_string())).collect();
    assert_eq!(read, ["main.yaml", "tasks.yaml", "sub/channels.yaml", "sub/a.yaml", "sub/../map.yaml"]);
}

#[test]
fn a_glob_is_a_list_in_name_order() {
    let files = Files::new(&[
        ("main.yaml", "channels: !include channels.d/*.yaml\n"),
        ("channels.d/20-b.yaml", "name: b\nport: 20002\n"),
        ("channels.d/10-a.yaml", A),
        ("channels.d/30-cd.yaml", "- {name: c, port: 20003}\n- {name: d, port: 20004}\n"),
        ("channels.d/40-empty.yaml", "# name: e\n"),
        ("channels.d/50-off.yaml.disabled", "nonsense: ["),
    ]);
    assert_eq!(names(&files), ["a", "b", "c", "d"]);
}

#[test]
fn a_list_item_that_includes_a_list_is_spliced_in() {
    let files = Files::new(&[
        ("main.yaml", "channels:\n- !include a.yaml\n- !include more.yaml\n- {name: z, port: 20009}\n"),
        ("a.yaml", A),
        ("more.yaml", "- {name: b, port: 20002}\n- !include nested.yaml\n"),
        ("nested.yaml", "[{name: c, port: 20003}, {name: d, port: 20004}]\n"),
    ]);
    assert_eq!(names(&files), ["a", "b", "c", "d", "z"]);
}

#[test]
fn a_merge_may_be_included() {
    let files = Files::new(&[
        ("main.yaml", "channels:\n- <<: !include common.yaml\n  name: a\n  port: 20001\n"),
        ("common.yaml", "tasks: 2\nport: 5\n"),
    ]);
    assert_eq!(files.load("main.yaml").unwrap().config.channels[0].tasks, 2);
}

#[test]
fn an_absolute_path_is_taken_as_it_is() {
    let files = Files::new(&[("a.yaml", A)]);
    let text = format!("channels: [!include {}]", files.path("a.yaml").display());
    files.write("main.yaml", text.as_bytes());
    assert_eq!(names(&files), ["a"]);
}

#[test]
fn the_same_file_may_be_included_twice_side_by_side() {
    let files = Files::new(&[
        (
            "main.yaml",
            "channels:\n- {name: a, port: 20001, mapping: !include m.yaml}\n- {name: b, port: 20002, mapping: !include m.yaml}\n",
        ),
        ("m.yaml", "patient_id: PID.1.3.1\n"),
    ]);
    assert_eq!(names(&files), ["a", "b"]);
}

#[test]
fn a_problem_names_the_included_file_and_the_whole_key_path() {
    let files = Files::new(&[
        ("main.yaml", "channels:\n- !include a.yaml\n- !include b.yaml\n"),
        ("a.yaml", A),
        ("b.yaml", "name: b\nport: 80\nprot: 1\nport: 2\n"),
    ]);
    assert_eq!(
        files.errors("main.yaml"),
        [
            "b.yaml:2:7: channels[2].port: 80 is out of range; a channel's port is 1024 to 49151",
            "b.yaml:3:1: channels[2].prot: unknown key, did you mean port?",
            "b.yaml:4:1: channels[2].port: duplicate key, it stands in line 2 too; keep one of them",
        ]
    );
}

#[test]
fn broken_yaml_in_an_included_file_hides_no_problem_of_the_others() {
    let files = Files::new(&[
        ("main.yaml", "max_tasks: 0\nchannels:\n- !include a.yaml\n- !include b.yaml\n"),
        ("a.yaml", "name: [\n"),
        ("b.yaml", "name: b\nport: 80\n"),
    ]);
    let errors = files.errors("main.yaml");
    assert!(errors[0].starts_with("main.yaml:1:12: max_tasks: 0 is out of range"), "{errors:?}");
    assert!(errors[1].starts_with("a.yaml:2:1: channels[1]: not YAML"), "{errors:?}");
    assert!(errors[2].starts_with("b.yaml:2:7: channels["), "{errors:?}");
    assert_eq!(errors.len(), 3);
}

#[test]
fn a_cycle_is_refused_with_its_chain() {
    let files = Files::new(&[
        ("main.yaml", "channels:\n- !include a.yaml\n"),
        ("a.yaml", "name: a\nport: 20001\nmapping: !include b.yaml\n"),
        ("b.yaml", "x: !include a.yaml\n"),
    ]);
    assert_eq!(
        files.errors("main.yaml"),
        [
            "b.yaml:1:4: channels[1].mapping.x: cannot include \"a.yaml\": it includes itself (main.yaml:2:3 > \
          a.yaml:3:10 > b.yaml:1:4 > a.yaml); take one of these includes out"
        ]
    );
}

#[test]
fn sixteen_levels_are_enough() {
    let chain = |depth: usize| {
        let files = Files::new(&[]);
        for n in 0..depth {
            let next = format!("!include f{}.yaml\n", n + 1);
            let text = if n + 1 == depth { "5\n".to_owned() } else { next };
            files.write(&format!("f{n}.yaml"), text.as_bytes());
        }
        files.write("main.yaml", b"max_tasks: !include f0.yaml\nchannels: [{name: a, port: 20001}]\n");
        files
    };
    assert!(chain(15).load("main.yaml").is_ok());
    let errors = chain(16).errors("main.yaml");
    assert!(errors[0].contains("more than 16 levels of includes"), "{errors:?}");
}

#[test]
fn a_thousand_files_are_enough() {
    let doubling = Files::new(&[("f10.yaml", "1\n")]);
    for n in 0..10 {
        let text = format!("[!include f{m}.yaml, !include f{m}.yaml]\n", m = n + 1);
        doubling.write(&format!("f{n}.yaml"), text.as_bytes());
    }
    doubling.write("main.yaml", b"x-bomb: !include f0.yaml\nchannels: [{name: a, port: 20001}]\n");
    let errors = doubling.errors("main.yaml");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("more than 1,000 files are included"), "{errors:?}");
}

fn refused(files: &Files, why: &str) {
    files.write("main.yaml", b"max_tasks: !include target\nchannels: [{name: a, port: 20001}]\n");
    let errors = files.errors("main.yaml");
    let wanted =
        format!("main.yaml:1:12: max_tasks: cannot include \"target\": {why} (main.yaml:1:12 > target)");
    assert!(errors[0].starts_with(&wanted), "{errors:?}");
    assert_eq!(errors.len(), 1);
}

#[test]
fn what_is_no_ordinary_file_of_ours_is_refused() {
    let missing = Files::new(&[]);
    refused(&missing, "no such file");

    let folder = Files::new(&[("target/x", "")]);
    refused(&folder, "not a regular file");

    let device = Files::new(&[]);
    std::os::unix::fs::symlink("/dev/zero", device.path("target")).unwrap();
    refused(&device, "not a regular file");

    let fifo = Files::new(&[]);
    let made = std::process::Command::new("mkfifo").arg(fifo.path("target")).status().unwrap();
    assert!(made.success());
    refused(&fifo, "not a regular file");

    let everybodys = Files::new(&[("target", "5")]);
    std::fs::set_permissions(everybodys.path("target"), std::fs::Permissions::from_mode(0o646)).unwrap();
    refused(&everybodys, "everybody may write it");

    let large = Files::new(&[]);
    large.write("target", &vec![b'#'; (8 << 20) + 1]);
    refused(&large, "larger than 8 MiB");
}

#[test]
fn a_glob_in_a_missing_folder_is_refused_and_one_without_matches_is_empty() {
    let missing = Files::new(&[("main.yaml", "channels: !include channels.d/*.yaml\n")]);
    let errors = missing.errors("main.yaml");
    assert!(
        errors[0].contains("cannot include \"channels.d/*.yaml\": could not read its folder"),
        "{errors:?}"
    );
    assert_eq!(errors.len(), 1, "{errors:?}");

    let empty =
        Files::new(&[("main.yaml", "channels: !include channels.d/*.yaml\n"), ("channels.d/README", "")]);
    let errors = empty.errors("main.yaml");
    assert_eq!(errors, ["main.yaml:1:11: channels: no channel; a server has at least one channel"]);
}

#[test]
fn bytes_that_are_not_utf8_are_named_with_their_place() {
    let files = Files::new(&[("main.yaml", "channels: [!include a.yaml]\n")]);
    files.write("a.yaml", b"name: a\n# caf\xe9\nport: 20001\n");
    let errors = files.errors("main.yaml");
    assert_eq!(
        errors,
        ["a.yaml:2:6: not UTF-8: byte 0xe9 (main.yaml:1:12 > a.yaml); save the file as UTF-8"]
    );
    files.write("main.yaml", b"\xff\xfec\0h\0");
    assert!(files.errors("main.yaml")[0].starts_with("main.yaml:1:1: not UTF-8: byte 0xff"));
}

#[test]
fn a_missing_main_file_says_so() {
    assert_eq!(
        Files::new(&[]).errors("main.yaml"),
        ["main.yaml: no such file; write the path of an existing file"]
    );
}

#[test]
fn an_include_of_a_list_or_without_a_path_is_refused() {
    let files = Files::new(&[("main.yaml", "max_tasks: !include ''\nchannels: !include [a.yaml]\n")]);
    let errors = files.errors("main.yaml");
    assert_eq!(errors[0], "main.yaml:1:12: max_tasks: !include without a path; write !include PATH");
    assert_eq!(errors[1], "main.yaml:2:11: channels: !include of a list or table; write !include PATH");
}
