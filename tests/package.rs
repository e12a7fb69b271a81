//! The parts of the Debian package that can be looked at without building it: units, configuration, scripts, licences.
//! `make deb-test` builds it and tries it in a Debian root under a systemd of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use config::{Mode, Severity};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What the unit may be exposed to at most, by `systemd-analyze security`, in tenths.
const EXPOSURE_MAX: &str = "15";
const UNITS: [&str; 2] = ["hl7server.service", "hl7server-dashboard.service"];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(top().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The units with the program where it was built, since systemd looks for it; `None` without systemd's tools.
fn units() -> Option<(tempfile::TempDir, Vec<PathBuf>)> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: systemd-analyze is not there (apt-get install systemd)");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let paths = UNITS.iter().map(|name| {
        let text =
            read(&format!("debian/{name}")).replace("/usr/bin/hl7server", env!("CARGO_BIN_EXE_hl7server"));
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let paths = paths.collect();
    Some((folder, paths))
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let Some((_folder, units)) = units() else { return };
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    // It also ends well with complaints that it thinks bearable.
    let complaints: Vec<String> =
        said(&output).lines().filter(|line| line.contains("hl7server")).map(str::to_owned).collect();
    assert_eq!(complaints, Vec::<String>::new());
}

#[test]
fn the_units_are_hardly_exposed() {
    let Some((_folder, units)) = units() else { return };
    for unit in units {
        let output = Command::new("systemd-analyze")
            .args(["security", "--no-pager", "--offline=true", "--threshold", EXPOSURE_MAX])
            .arg(&unit)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// What a unit runs, as words.
fn commands_of(unit: &str) -> Vec<Vec<String>> {
    let text = read(&format!("debian/{unit}"));
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let commands = lines.filter(|(key, _)| ["ExecStart", "ExecReload"].contains(key)).map(|(_, value)| value);
    commands.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn what_the_units_run_are_commands_of_the_program() {
    for unit in UNITS {
        let commands = commands_of(unit);
        assert!(!commands.is_empty(), "{unit}");
        for command in commands {
            let (program, arguments) = command.split_first().unwrap();
            if program != "/usr/bin/hl7server" {
                assert_eq!(command, ["/bin/kill", "-HUP", "$MAINPID"], "{unit}");
                continue;
            }
            let output =
                Command::new(env!("CARGO_BIN_EXE_hl7server")).args(arguments).arg("--help").output().unwrap();
            assert!(output.status.success(), "{unit}: {}", said(&output));
        }
    }
}

#[test]
fn the_unit_leaves_a_drain_the_time_it_may_take() {
    let unit = read("debian/hl7server.service");
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.yaml");
    std::fs::write(&path, "channels: [{name: a, port: 20001}]").unwrap();
    let loaded = config::load(&path, &|_| false, Mode::Check).unwrap();
    assert!(stop.parse::<u64>().unwrap() > loaded.config.service.stop_timeout.as_secs());
}

#[test]
fn the_configuration_as_installed_is_in_order_and_starts_nothing() {
    let path = top().join("debian/hl7server.yaml");
    let loaded = config::load(&path, &|_| false, Mode::Run).unwrap_or_else(|problems| panic!("{problems}"));
    let warnings: Vec<String> = loaded
        .warnings
        .iter()
        .filter(|problem| problem.severity == Severity::Warning)
        .map(ToString::to_string)
        .collect();
    assert_eq!(warnings, Vec::<String>::new());
    assert!(loaded.config.channels.iter().all(|channel| !channel.enabled));
    let channels = &loaded.config.channels;
    let shown = [
        ("an archive", channels.iter().any(|c| c.local_archive.is_some())),
        ("attachments", channels.iter().any(|c| c.attachment_field.is_some())),
        ("a stamp", channels.iter().any(|c| c.stamp.is_some())),
        ("drop folders", channels.iter().any(|c| !c.drop_folders.is_empty())),
        ("credential tasks", channels.iter().any(|c| !c.credentials_metadata.is_empty())),
        ("a database", channels.iter().any(|c| c.db_insert.is_some())),
        ("TLS", channels.iter().any(|c| c.tls.is_some())),
    ];
    for (what, is_shown) in shown {
        assert!(is_shown, "no example of {what}");
    }
    // A disabled channel's own `resend` is checked and left out, so it is looked for in the text.
    assert!(read("debian/hl7server.yaml").contains("\n    resend: "));
}

#[test]
fn the_package_has_the_programs_version() {
    let first = read("debian/changelog").lines().next().unwrap().to_owned();
    assert!(first.starts_with(&format!("hl7server ({})", env!("CARGO_PKG_VERSION"))), "{first}");
}

#[test]
fn the_scripts_of_the_package_are_sound() {
    for name in ["postinst", "prerm", "postrm"] {
        let text = read(&format!("debian/hl7server.{name}"));
        assert!(text.contains("\nset -e\n") && text.contains("\n#DEBHELPER#\n"), "{name}");
        let output = Command::new("sh")
            .arg("-n")
            .arg(top().join(format!("debian/hl7server.{name}")))
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", said(&output));
    }
    for name in ["fresh-root", "inside", "first-hour"] {
        let output =
            Command::new("bash").arg("-n").arg(top().join("tests/package").join(name)).output().unwrap();
        assert!(output.status.success(), "{name}: {}", said(&output));
    }
}

#[test]
fn the_copyright_file_names_every_licence_that_is_let_in() {
    let deny = read("deny.toml");
    let list = deny.split("\nallow = [").nth(1).and_then(|rest| rest.split("\n]").next()).unwrap();
    let copyright = read("debian/copyright");
    let header = copyright.split("\nFiles: ").next().unwrap();
    for licence in list.split('"').skip(1).step_by(2) {
        let name = licence.split(" WITH ").next().unwrap();
        assert!(header.contains(name), "debian/copyright says nothing of {licence}");
    }
}
