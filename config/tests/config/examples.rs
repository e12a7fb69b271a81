//! Every shipped example loads without a warning, and what each shows is what it says.

use config::{Loaded, Mode, Severity, Workflow};
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"))
}

fn example(name: &str) -> Loaded {
    config::load(&folder().join(name), &|_| true, Mode::Run).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn every_example_loads_without_a_warning() {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".yaml") {
            continue;
        }
        seen += 1;
        let loaded = example(&name);
        let warnings: Vec<String> = loaded
            .warnings
            .iter()
            .filter(|p| p.severity == Severity::Warning)
            .map(ToString::to_string)
            .collect();
        assert_eq!(warnings, Vec::<String>::new(), "{name}");
    }
    assert_eq!(seen, 13);
}

#[test]
fn the_whole_server_has_its_included_channels_in_order() {
    let loaded = example("hl7server.yaml");
    let names: Vec<&str> = loaded.config.channels.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["adt", "oru", "mdm", "test"]);
    let test = loaded.config.channel("test").unwrap();
    assert!(!test.enabled);
    assert_eq!(test.allow.len(), 2);
    assert_eq!(test.workflows.workflow("SIU", "S12"), Some(Workflow::Store));
    assert_eq!(loaded.files.len(), 3);
}

#[test]
fn every_example_travels_over_the_link_unchanged() {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".yaml") {
            continue;
        }
        let loaded = example(&name);
        for channel in &loaded.config.channels {
            let settings = loaded.config.worker_settings(channel);
            let json = serde_json::to_string(&settings).unwrap();
            let back: config::WorkerSettings = serde_json::from_str(&json).unwrap();
            assert_eq!(back, settings, "{name}");
        }
    }
}
